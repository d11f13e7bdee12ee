"""The cells of tables (facts/image-api.md 6.1)."""

from collections.abc import Sequence
from datetime import datetime

from alauda_imageapi.kinds import tags
from alauda_imageapi.machinery.metadata import parse_time
from alauda_imageapi.machinery.objects import Object

_TAGS_WIDTH = 40
_ROOM_LEFT = 12
_OVERSHOOT = 10
_DAY = 24


def age_text(moment: datetime | None, now: datetime) -> str:
    """Say how long ago something was, as docker does."""
    if moment is None:
        return ""
    return f"{_duration((now - moment).total_seconds())} ago"


def updated_text(stream: Object, now: datetime) -> str:
    """Say when a tag of a stream was last changed."""
    moments = [
        parse_time(event.get("created", ""))
        for named in tags.status_tags(stream)
        if (event := tags.newest_of(named))
    ]
    return age_text(max(moments), now) if moments else ""


def tags_text(stream: Object) -> str:
    """List the tags of a stream, the latest first, as far as there is room."""
    found = [
        (named["tag"], parse_time(event.get("created", "")))
        for named in tags.status_tags(stream)
        if (event := tags.newest_of(named))
    ]
    found.sort(key=lambda item: item[0])
    found.sort(key=lambda item: item[1].replace(microsecond=0), reverse=True)
    return _fitted([name for name, _ in found])


def _fitted(names: Sequence[str]) -> str:
    room = _TAGS_WIDTH
    shown: list[str] = []
    for name in names:
        cost = len(name) + 1
        fits = cost <= room or (room >= _ROOM_LEFT and cost - room <= _OVERSHOOT)
        if shown and not fits:
            break
        shown.append(name)
        room -= cost
    more = len(names) - len(shown)
    return ",".join(shown) + (f" + {more} more..." if more else "")


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 1:
        return "Less than a second"
    if seconds < 2:
        return "1 second"
    if seconds < 60:
        return f"{int(seconds)} seconds"
    if minutes < 2:
        return "About a minute"
    if minutes < 60:
        return f"{int(minutes)} minutes"
    rounded = int(hours + 0.5)
    if rounded == 1:
        return "About an hour"
    days = hours / _DAY
    if rounded < 48:
        return f"{rounded} hours"
    if days < 14:
        return f"{int(days)} days"
    if days < 60:
        return f"{int(days / 7)} weeks"
    if days < 730:
        return f"{int(days / 30)} months"
    return f"{int(days / 365)} years"


def spec_text(view: Object) -> str:
    """Say in a word where an ImageTag comes from."""
    spec, named = view.get("spec"), view.get("status") or {}
    event = tags.newest_of(named)
    source = (spec or {}).get("from")
    if spec is None:
        return "Push" if event else ""
    if source is None:
        return ""
    if source.get("kind") == "ImageStreamTag" and ":" not in source.get("name", ""):
        return "Track"
    if event and event.get("generation", 0) > spec.get("generation", 0):
        return "Push"
    if spec.get("reference"):
        return "Ref"
    return "Scheduled" if spec.get("importPolicy", {}).get("scheduled") else "Tag"


def status_text(view: Object) -> str:
    """Say what an ImageTag is, or why it is not."""
    spec, named = view.get("spec") or {}, view.get("status") or {}
    for condition in named.get("conditions") or []:
        if condition.get("type") == "ImportSuccess" and condition.get("status") == "False":
            return f"ImportFailed ({condition.get('reason', '')})"
    event = tags.newest_of(named)
    if event:
        if spec.get("generation", 0) > event.get("generation", 0):
            return "Importing"
        image = event.get("image")
        return f"image/{image}" if image else event.get("dockerImageReference", "")
    source = spec.get("from") or {}
    name = source.get("name", "")
    match source.get("kind"):
        case "DockerImage":
            return str(name)
        case "ImageStreamImage":
            return f"image/{name.rpartition('@')[2]}"
        case "ImageStreamTag":
            namespace = source.get("namespace")
            return f"istag {namespace}/{name}" if namespace else f"istag/{name}"
        case None:
            return ""
        case _:
            return "InvalidRefKind"
