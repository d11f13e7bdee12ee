"""kubectl cannot tell our kinds from built-in ones: every command, every kind, two versions of it.

``kubectl_matrix.py`` has the kinds and what is to be seen of them.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import yaml

from tests.integration.kubectl_matrix import (
    GROUP,
    KINDS,
    Kind,
    Object,
    Place,
    Samples,
    having,
    mapping,
    unique,
    with_path,
)
from tests.parts import image_api, registry
from tests.parts.control_plane import ControlPlane
from tests.parts.kubectl import Kubectl, another
from tests.parts.processes import wait_until
from tests.parts.tools import find, require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

Check = Callable[[Kind, Samples, str], bool]

PINNED, MACHINES = "pinned", "machine's"
STANDALONE, CLUSTER = "standalone", "cluster"
IN_SHORT = ((PINNED, CLUSTER), (MACHINES, STANDALONE))
"""Each kubectl and each server once; every command meets every kind at one of the two places."""

IN_LONG = ((PINNED, STANDALONE), (MACHINES, CLUSTER))


@pytest.fixture(scope="module", params=[*IN_SHORT, *IN_LONG], ids="-".join)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, *, is_long: bool
) -> Iterator[Place]:
    """A kubectl, and a registry with the image API or two servers of it behind a kube-apiserver."""
    version, kind = request.param
    if request.param in IN_LONG and not is_long:
        pytest.skip("make torture has this pair")
    require("kubectl")
    program = find("kubectl") if version == PINNED else another()
    directory = tmp_path_factory.mktemp("matrix")
    if kind == STANDALONE:
        with registry.running(directory, arguments=["--image-api"]) as server:
            yield Place(Kubectl(program, server.url, directory), unique)
        assert "Traceback" not in server.log.read_text()
        return
    plane: ControlPlane = request.getfixturevalue("control_plane")
    with image_api.running(plane, directory, replicas=2) as api:
        kubectl = Kubectl(program, plane.url, directory, plane.admin)
        yield Place(kubectl, plane.new_namespace)
    for log in api.directory.glob("*.log"):
        assert "Traceback" not in log.read_text()


@pytest.fixture(autouse=True)
def _in_turn(request: pytest.FixtureRequest, *, is_long: bool) -> None:
    """Leave every other one of the tests to the other place."""
    says_where = any(mark.args[0] == "place" for mark in request.node.iter_markers("parametrize"))
    params = dict(request.node.callspec.params)
    place = params.pop("place")
    if is_long or says_where or not params:
        return
    turn = crc32(f"{request.node.originalname} {sorted(params.items())}".encode()) % len(IN_SHORT)
    if place != IN_SHORT[turn]:
        pytest.skip("the other place has this one, and make torture both")


@pytest.fixture(scope="module")
def read(place: Place) -> Samples:
    """Samples that nobody changes."""
    return Samples(place.kubectl, place.new_namespace()).prepare()


@pytest.fixture
def samples(place: Place) -> Samples:
    """Samples that one test changes."""
    return Samples(place.kubectl, place.new_namespace()).prepare()


def named(kind: Kind, samples: Samples) -> str:
    (name,) = samples.fill(kind.name)
    return name


def cells(kind: Kind, *, wide: bool = False) -> str:
    return " +".join(kind.columns[0] + (kind.columns[1] if wide else []))


def has_table(kind: Kind, samples: Samples, said: str) -> bool:
    return re.match(f"{cells(kind)} *\n{re.escape(named(kind, samples))} ", said) is not None


def has_wide_table(kind: Kind, samples: Samples, said: str) -> bool:
    head = cells(kind, wide=True)
    return re.match(f"{head} *\n{re.escape(named(kind, samples))} ", said) is not None


def is_named(kind: Kind, samples: Samples, said: str) -> bool:
    return said.strip() == named(kind, samples)


def is_document(kind: Kind, samples: Samples, said: str) -> bool:
    # JSON is YAML.
    found = yaml.safe_load(said)
    name = found["metadata"]["name"]
    return (found["kind"], name) == (kind.kind, named(kind, samples))


def is_list(kind: Kind, samples: Samples, said: str) -> bool:
    found = yaml.safe_load(said)
    return [item["metadata"]["name"] for item in found["items"]] == [named(kind, samples)]


def ends_with_labels(kind: Kind, samples: Samples, said: str) -> bool:
    words = said.split()
    # Tags have the labels of their stream.
    labels = "tier=front" if kind.namespaced else "<none>"
    return (words[0], words[-1]) == (named(kind, samples), labels)


def is_typed_name(kind: Kind, samples: Samples, said: str) -> bool:
    return said.strip() == f"{kind.kind.lower()}.{GROUP}/{named(kind, samples)}"


def is_described(kind: Kind, samples: Samples, said: str) -> bool:
    return (
        re.match(f"Name: +{re.escape(named(kind, samples))}\n", said) is not None
        and re.search(f"\nKind: +{kind.kind}\n", said) is not None
    )


def is_nothing(_kind: Kind, _samples: Samples, said: str) -> bool:
    return said == ""


# Behind the command stand the kind and the name of its sample.
GETS: dict[str, tuple[str, Check]] = {
    "table": ("get", has_table),
    "wide": ("get -o wide", has_wide_table),
    "yaml": ("get -o yaml", is_document),
    "json": ("get -o json", is_document),
    "name": ("get -o name", is_typed_name),
    "jsonpath": ("get -o jsonpath={{.metadata.name}}", is_named),
    "go-template": ("get -o go-template={{{{.metadata.name}}}}", is_named),
    "custom columns": ("get --no-headers -o custom-columns=N:.metadata.name", is_named),
    "managed fields": ("get -o yaml --show-managed-fields", is_document),
    "describe": ("describe", is_described),
}


@pytest.mark.parametrize("plural", having("get"))
@pytest.mark.parametrize("row", GETS)
def test_one_object_is_shown(read: Samples, plural: str, row: str) -> None:
    kind, (command, check) = KINDS[plural], GETS[row]

    said = read.kubectl(*read.fill(command), *kind.target(read))

    assert check(kind, read, said), said


@pytest.mark.parametrize("row", ["table", "yaml"])
def test_status_of_a_stream_is_shown(read: Samples, row: str) -> None:
    kind, (command, check) = KINDS["imagestreams"], GETS[row]

    said = read.kubectl(*read.fill(command), *kind.target(read), "--subresource=status")

    assert check(kind, read, said), said


# Behind the command stands the kind. Images are the cluster's, hence the selection.
ONLY = "--field-selector=metadata.name={name}"
LISTS: dict[str, tuple[str, Check]] = {
    "table": (f"get {ONLY}", has_table),
    "wide": (f"get -o wide {ONLY}", has_wide_table),
    "json": (f"get -o json {ONLY}", is_list),
    "name": (f"get -o name {ONLY}", is_typed_name),
    "pages": (f"get -o name --chunk-size=1 {ONLY}", is_typed_name),
    "sorted": (f"get -o name --sort-by=.metadata.name {ONLY}", is_typed_name),
    "no label": (f"get -o name -l !nobody-has-it {ONLY}", is_typed_name),
    "label": (f"get -o name -l nobody=has-it {ONLY}", is_nothing),
    "labels": (f"get --show-labels --no-headers {ONLY}", ends_with_labels),
    "managed fields": (f"get -o yaml --show-managed-fields {ONLY}", is_list),
}


@pytest.mark.parametrize("plural", having("list"))
@pytest.mark.parametrize("row", LISTS)
def test_objects_are_listed(read: Samples, plural: str, row: str) -> None:
    kind, (command, check) = KINDS[plural], LISTS[row]
    words = [word.replace("{name}", named(kind, read)) for word in command.split()]

    said = read.kubectl(*words, kind.plural_with_group, *read.where(kind))

    assert check(kind, read, said), said


@pytest.mark.parametrize("plural", having("list"))
def test_objects_of_all_namespaces_are_listed(read: Samples, plural: str) -> None:
    kind = KINDS[plural]

    said = read.kubectl("get", kind.plural_with_group, "-A", "--no-headers")

    where = f"{read.namespace} +" if kind.namespaced else ""
    assert re.search(f"^{where}{re.escape(named(kind, read))} ", said, re.MULTILINE), said


@pytest.mark.parametrize("plural", having("list"))
def test_short_names_and_kinds_are_known(read: Samples, plural: str) -> None:
    kind = KINDS[plural]
    name = named(kind, read)

    for word in (kind.short, f"{kind.kind.lower()}.{GROUP}", f"{plural}.v1.{GROUP}"):
        assert read.kubectl("get", word, name, *read.where(kind), "-o", "name")


@pytest.mark.parametrize("plural", KINDS)
def test_what_is_not_there_is_not_found(read: Samples, plural: str) -> None:
    kind = KINDS[plural]
    if "get" not in kind.verbs:
        assert "MethodNotAllowed" in read.kubectl.fails("get", *kind.target(read))
        return
    absent = ["get", kind.plural_with_group, "none:1@sha256:0"[: 4 + 2 * (":" in kind.name)]]
    if kind.plural == "imagestreamimages":
        absent[-1] = "none@sha256:00"

    complaint = read.kubectl.fails(*absent, *read.where(kind))

    assert re.match(rf'Error from server \(NotFound\): {plural}\.{GROUP} "none', complaint)
    assert read.kubectl(*absent, *read.where(kind), "--ignore-not-found") == ""


def explain(place: Place, *words: str) -> str:
    """Have a kind explained, once kube-apiserver has our schemas."""
    done = place.kubectl.run("explain", *words)

    def is_explained() -> bool:
        nonlocal done
        done = place.kubectl.run("explain", *words)
        return done.returncode == 0

    if done.returncode:
        wait_until(is_explained, "kubectl explain")
    return done.stdout


@pytest.mark.parametrize("plural", KINDS)
def test_kinds_are_explained(place: Place, plural: str) -> None:
    kind = KINDS[plural]
    path, says = kind.explained

    head = explain(place, kind.plural_with_group)
    tree = explain(place, kind.plural_with_group, "--recursive")
    leaf = explain(place, f"{plural}.{path}", f"--api-version={GROUP}/v1")

    assert re.search(f"KIND: +{kind.kind}\n", head)
    assert re.search(f"^ +{path.rpartition('.')[2]}\t<", tree, re.MULTILINE)
    assert says in " ".join(leaf.split())


@pytest.mark.parametrize("plural", KINDS)
def test_kinds_are_discovered(place: Place, plural: str) -> None:
    kind = KINDS[plural]

    listed = place.kubectl("api-resources", f"--api-group={GROUP}", "--no-headers", "-o", "wide")

    (line,) = (line.split() for line in listed.splitlines() if line.split()[0] == plural)
    short = [kind.short] if "." not in kind.short and kind.short != plural else []
    scope = str(kind.namespaced).lower()
    assert line[1 : 4 + len(short)] == [*short, f"{GROUP}/v1", scope, kind.kind]
    assert set(line[4 + len(short)].split(",")) == kind.verbs


@pytest.mark.parametrize("plural", having("create"))
def test_object_is_created(samples: Samples, plural: str) -> None:
    kind = KINDS[plural]
    sent = kind.make(samples, kind.fresh)
    create = ("create", *samples.where(kind), "-f", "-")

    for trial in ("client", "server"):
        said = samples.kubectl(*create, f"--dry-run={trial}", given=sent)
        assert "(dry run)" in said or "(server dry run)" in said
    assert "created" in samples.kubectl(*create, given=sent)

    # A mapping makes something else, and may be posted as often as one likes.
    if kind.kind != "ImageStreamMapping":
        assert "AlreadyExists" in samples.kubectl.fails(*create, given=sent)


@pytest.mark.parametrize("plural", having("create"))
def test_unknown_fields_are_told(samples: Samples, plural: str) -> None:
    kind = KINDS[plural]
    sent = {**kind.make(samples, kind.fresh), "misspelt": 1}
    create = ("create", "--dry-run=server", *samples.where(kind), "-f", "-")

    complaint = samples.kubectl.fails(*create, given=sent)
    warned = samples.kubectl.run(*create, "--validate=warn", given=sent)
    ignored = samples.kubectl.run(*create, "--validate=ignore", given=sent)

    assert 'unknown field "misspelt"' in complaint
    assert warned.returncode == ignored.returncode == 0
    assert 'unknown field "misspelt"' in warned.stderr
    assert "misspelt" not in ignored.stderr


def changed(kind: Kind, sent: Object) -> Object:
    """What was sent, with the kind's change in it."""
    patch, _, _ = kind.change
    return _merged(sent, patch)


def _merged(one: Object, other: Object) -> Object:
    found = dict(one)
    for name, value in other.items():
        both = isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = _merged(found[name], value) if both else value
    return found


def new_object(kind: Kind, samples: Samples) -> tuple[Object, list[str]]:
    """Make an object, and return it with the words that name it."""
    made = kind.make(samples, kind.fresh)
    where = samples.where(kind)
    samples.kubectl("create", *where, "-f", "-", given=made)
    return made, [kind.plural_with_group, made["metadata"]["name"], *where]


def value_of(kind: Kind, samples: Samples, target: list[str]) -> str:
    _, path, _ = kind.change
    return samples.kubectl("get", *target, "-o", f"jsonpath={path}")


CHANGEABLE = having("create", "get", "patch", "update", "delete")


@pytest.mark.parametrize("plural", CHANGEABLE)
def test_object_is_applied(samples: Samples, plural: str) -> None:
    kind = KINDS[plural]
    sent = kind.make(samples, kind.fresh)
    apply = ("apply", *samples.where(kind), "-f", "-")
    diff = ("diff", *samples.where(kind), "-f", "-")
    assert samples.kubectl.run(*diff, given=sent).returncode == 1
    assert "created" in samples.kubectl(*apply, given=sent)
    if "apply" in kind.refuses:
        assert kind.refuses["apply"] in samples.kubectl.fails(*apply, given=changed(kind, sent))
        return

    assert "unchanged" in samples.kubectl(*apply, given=sent)
    assert samples.kubectl.run(*diff, given=sent).returncode == 0
    differs = samples.kubectl.run(*diff, given=changed(kind, sent))
    tried = samples.kubectl(*apply, "--dry-run=server", given=changed(kind, sent))
    applied = samples.kubectl(*apply, given=changed(kind, sent))

    assert differs.returncode == 1, differs.stderr
    assert "\n+" in differs.stdout
    assert "configured (server dry run)" in tried
    assert "configured" in applied
    target = [kind.plural_with_group, sent["metadata"]["name"], *samples.where(kind)]
    assert value_of(kind, samples, target) == kind.change[2]
    # What is left out is taken away again.
    assert "configured" in samples.kubectl(*apply, given=sent)
    assert value_of(kind, samples, target) != kind.change[2]


@pytest.mark.parametrize("plural", CHANGEABLE)
def test_object_is_applied_by_the_server(samples: Samples, plural: str) -> None:
    kind = KINDS[plural]
    sent = kind.make(samples, kind.fresh)
    apply = ("apply", "--server-side", *samples.where(kind), "-f", "-")
    _, path, value = kind.change

    assert "serverside-applied" in samples.kubectl(*apply, "--field-manager=me", given=sent)
    assert "serverside-applied" in samples.kubectl(*apply, "--field-manager=me", given=sent)
    mine = samples.kubectl(*apply, "--field-manager=me", given=changed(kind, sent))

    target = [kind.plural_with_group, sent["metadata"]["name"], *samples.where(kind)]
    assert "serverside-applied" in mine
    assert value_of(kind, samples, target) == value
    if "watch" not in kind.verbs:
        # Views are nobody's: what they show is part of a stream.
        return
    other = {"true": False}.get(value, "q.io/yours/app:1")
    yours = _merged(sent, with_path(path, other))
    complaint = samples.kubectl.fails(*apply, "--field-manager=you", given=yours)
    assert f'with 1 conflict: conflict with "me": {path.strip("{}")}\n' in complaint
    samples.kubectl(*apply, "--field-manager=you", "--force-conflicts", given=yours)
    assert value_of(kind, samples, target) == str(other).replace("F", "f")


def test_client_leaves_applying_to_the_server(samples: Samples) -> None:
    kind = KINDS["imagestreams"]
    where = samples.where(kind)
    target = ["imagestream", "handed", *where]

    def wanted(**tags: str) -> Object:
        found = [
            {"name": name, "from": {"kind": "DockerImage", "name": place}}
            for name, place in tags.items()
        ]
        return {**kind.make(samples, "handed"), "spec": {"tags": found}}

    def sources() -> str:
        return samples.kubectl("get", *target, "-o", "jsonpath={.spec.tags[*].from.name}")

    by_server = ("apply", "--server-side", *where, "-f", "-")
    samples.kubectl("apply", *where, "-f", "-", given=wanted(v1="q.io/a:1", v2="q.io/a:2"))
    samples.kubectl(*by_server, given=wanted(v1="q.io/a:3", v2="q.io/a:2"))
    assert sources() == "q.io/a:3 q.io/a:2"
    samples.kubectl(*by_server, given=wanted(v1="q.io/a:3"))
    assert sources() == "q.io/a:3"
    samples.kubectl("delete", "istag", "handed:v1", *where)
    other = (*by_server, "--field-manager=other")
    samples.kubectl(*other, given=wanted(v1="q.io/a:4"))
    assert sources() == "q.io/a:4"


PATCHES = ("strategic", "merge", "json")


@pytest.mark.parametrize("plural", CHANGEABLE)
@pytest.mark.parametrize("type_", PATCHES)
def test_object_is_patched(samples: Samples, plural: str, type_: str) -> None:
    kind = KINDS[plural]
    _, target = new_object(kind, samples)
    patch: Any = kind.change[0]
    if type_ == "json":
        pointer = kind.change[1].strip("{}").replace(".", "/")
        value = {"true": True}.get(kind.change[2], kind.change[2])
        patch = [{"op": "add", "path": pointer, "value": value}]
    command = ("patch", *target, f"--type={type_}", "-p", json.dumps(patch))

    tried = samples.kubectl(*command, "--dry-run=server")
    assert value_of(kind, samples, target) != kind.change[2]
    done = samples.kubectl(*command)

    assert "patched" in tried
    assert "patched" in done
    assert value_of(kind, samples, target) == kind.change[2]
    assert "patched (no change)" in samples.kubectl(*command)


@pytest.mark.parametrize("plural", CHANGEABLE)
def test_object_is_edited_and_replaced(samples: Samples, plural: str, tmp_path: Path) -> None:
    kind = KINDS[plural]
    _, target = new_object(kind, samples)
    before = json.loads(samples.kubectl("get", *target, "-o", "json"))
    wanted = tmp_path / "wanted.json"
    wanted.write_text(json.dumps(changed(kind, before)))
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\ncat {shlex.quote(str(wanted))} > "$1"\n')
    editor.chmod(0o755)
    replace = ("replace", *samples.where(kind), "-f", "-")

    said: list[str] = []

    def is_edited() -> bool:
        done = samples.kubectl.run("edit", *target, KUBE_EDITOR=str(editor))
        said.append(done.stdout + done.stderr)
        return done.returncode == 0

    # kube-apiserver has our schemas some seconds after it serves us, and drops those of a server
    # that went as much later; without them kubectl finds whatever is edited invalid.
    wait_until(is_edited, "kubectl edit")
    assert value_of(kind, samples, target) == kind.change[2]
    stale = samples.kubectl.run(*replace, given=before)
    fresh = json.loads(samples.kubectl("get", *target, "-o", "json"))
    replaced = samples.kubectl(*replace, given=before | {"metadata": fresh["metadata"]})

    assert "edited" in said[-1]
    assert "Conflict" in stale.stderr
    assert "replaced" in replaced
    assert value_of(kind, samples, target) != kind.change[2]
    anew = kind.make(samples, kind.fresh)
    assert "replaced" in samples.kubectl(*replace, "--force", given=anew)


@pytest.mark.parametrize("plural", CHANGEABLE)
@pytest.mark.parametrize("verb", ["label", "annotate"])
def test_object_is_labelled(samples: Samples, plural: str, verb: str) -> None:
    kind = KINDS[plural]
    _, target = new_object(kind, samples)
    if verb in kind.refuses:
        assert kind.refuses[verb] in samples.kubectl.fails(verb, *target, "a=b")
        return
    path = f"jsonpath={{.metadata.{'labels' if verb == 'label' else 'annotations'}.a}}"

    assert f"{verb.removesuffix('e')}" in samples.kubectl(verb, *target, "a=b")
    assert samples.kubectl("get", *target, "-o", path) == "b"
    assert "--overwrite is false" in samples.kubectl.fails(verb, *target, "a=c")
    samples.kubectl(verb, *target, "a=c", "--overwrite")
    samples.kubectl(verb, *target, "a-")

    assert samples.kubectl("get", *target, "-o", path) == ""


@pytest.mark.parametrize("plural", CHANGEABLE)
def test_object_is_waited_for(samples: Samples, plural: str) -> None:
    kind = KINDS[plural]
    _, target = new_object(kind, samples)
    patch, path, value = kind.change
    waits = ("wait", *target, f"--for=jsonpath={path}={value}")
    samples.kubectl("patch", *target, "--type=merge", "-p", json.dumps(patch))

    assert "condition met" in samples.kubectl(*waits, "--timeout=60s")
    if "watch" not in kind.verbs:
        return
    gone = ("wait", *target, "--for=delete")
    hold = '{"metadata":{"finalizers":%s}}'
    samples.kubectl("patch", *target, "--type=merge", "-p", hold % '["example.com/hold"]')
    samples.kubectl("delete", *target, "--wait=false")
    assert "timed out" in samples.kubectl.fails(*gone, "--timeout=3s")
    command = samples.kubectl.command("delete", *target, "--ignore-not-found", "--timeout=30s")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=samples.kubectl.environment()
    ) as deleting:
        samples.kubectl("patch", *target, "--type=merge", "-p", hold % "null")
        assert deleting.wait(30) == 0


DELETIONS = {
    "plain": ["--now=false"],
    "background": ["--cascade=background"],
    "not waited for": ["--wait=false"],
    "at once": ["--now"],
    "forced": ["--grace-period=0", "--force"],
}


@pytest.mark.parametrize("plural", CHANGEABLE)
@pytest.mark.parametrize("flags", DELETIONS)
def test_object_is_deleted(samples: Samples, plural: str, flags: str) -> None:
    kind = KINDS[plural]
    _, target = new_object(kind, samples)

    for trial in ("client", "server"):
        assert "dry run" in samples.kubectl("delete", *target, f"--dry-run={trial}")
    assert "deleted" in samples.kubectl("delete", *target, *DELETIONS[flags])

    assert "NotFound" in samples.kubectl.fails("delete", *target)
    assert samples.kubectl("delete", *target, "--ignore-not-found") == ""


def test_signature_is_deleted(samples: Samples) -> None:
    kind = KINDS["imagesignatures"]

    assert "deleted" in samples.kubectl("delete", *kind.target(samples), "--wait=false")

    assert "NotFound" in samples.kubectl.fails("delete", *kind.target(samples), "--wait=false")
    path = "jsonpath={.signatures}"
    assert samples.kubectl("get", f"images.{GROUP}", samples.digest, "-o", path) == ""


@pytest.mark.parametrize("plural", having("delete", "list"))
def test_objects_are_deleted_by_selector(samples: Samples, plural: str) -> None:
    kind = KINDS[plural]
    if kind.namespaced:
        new_object(kind, samples)
        assert samples.kubectl("get", plural, *samples.where(kind), "-o", "name")
        samples.kubectl("delete", plural, "--all", *samples.where(kind))
        assert samples.kubectl("get", plural, *samples.where(kind), "-o", "name") == ""
        return
    # All of the cluster's are too many.
    _, target = new_object(kind, samples)
    mine = f"--selector=of={samples.namespace}"
    samples.kubectl("label", *target, f"of={samples.namespace}")

    said = samples.kubectl("delete", kind.plural_with_group, mine)

    assert said.count("deleted") == 1
    assert samples.kubectl("get", kind.plural_with_group, mine, "-o", "name") == ""


def test_streams_are_deleted_by_selector(samples: Samples) -> None:
    kind = KINDS["imagestreams"]
    _, target = new_object(kind, samples)
    samples.kubectl("label", *target, "gone=yes")

    samples.kubectl("delete", "is", "-l", "gone=yes", *samples.where(kind))

    assert samples.kubectl("get", "is", *samples.where(kind), "-o", "name") == (
        f"imagestream.{GROUP}/app\n"
    )


@pytest.mark.parametrize("plural", having("watch"))
def test_objects_are_watched(samples: Samples, plural: str) -> None:
    kind = KINDS[plural]
    made, target = new_object(kind, samples)
    name = made["metadata"]["name"]
    only = f"--field-selector=metadata.name={name}"
    where = [kind.plural_with_group, *samples.where(kind), only]
    command = samples.kubectl.command(
        "get", *where, "--watch", "--output-watch-events", "--no-headers"
    )
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=samples.kubectl.environment()
    ) as watching:
        assert watching.stdout is not None
        lines = iter(watching.stdout.readline, "")
        seen = [next(lines).split()[:2]]
        samples.kubectl("patch", *target, "--type=merge", "-p", json.dumps(kind.change[0]))
        seen.append(next(lines).split()[:2])
        samples.kubectl("delete", *target)
        seen.append(next(lines).split()[:2])
        watching.terminate()

    assert seen == [["ADDED", name], ["MODIFIED", name], ["DELETED", name]]


@pytest.mark.parametrize("plural", sorted(set(KINDS) - set(having("watch"))))
def test_what_cannot_be_watched_says_so(read: Samples, plural: str) -> None:
    complaint = read.kubectl.fails(
        "get", KINDS[plural].plural_with_group, *read.where(KINDS[plural]), "--watch-only"
    )

    assert "MethodNotAllowed" in complaint


def test_streams_are_part_of_all(read: Samples) -> None:
    assert "imagestream.image.alauda.io/app" in read.kubectl(
        "get", "all", "-n", read.namespace, "-o", "name"
    )


def test_tags_follow_mappings(samples: Samples) -> None:
    samples.kubectl("create", "-n", samples.namespace, "-f", "-", given=mapping(samples, "v9"))

    wait_until(
        lambda: "app:v9" in samples.kubectl("get", "istag", "-n", samples.namespace), "the tag"
    )


# kubectl reads version 2 of OpenAPI as protobuf, which the aggregator makes of ours.
@pytest.mark.parametrize(
    "place", [(PINNED, CLUSTER), (MACHINES, CLUSTER)], ids="-".join, indirect=True
)
@pytest.mark.parametrize("plural", KINDS)
def test_kinds_are_explained_in_the_old_way(place: Place, plural: str) -> None:
    kind = KINDS[plural]

    said = explain(
        place,
        *(f"{plural}.{kind.explained[0]}", f"--api-version={GROUP}/v1"),
        "--output=plaintext-openapiv2",
    )

    assert kind.explained[1] in " ".join(said.split())


@pytest.mark.parametrize(
    "place", [(PINNED, CLUSTER), (MACHINES, CLUSTER)], ids="-".join, indirect=True
)
@pytest.mark.parametrize("plural", KINDS)
def test_it_can_be_asked_who_may_do_what(place: Place, plural: str) -> None:
    kind = KINDS[plural]
    ask = ("auth", "can-i", "--as=nobody-in-particular")

    for verb in kind.verbs:
        question = (verb, kind.plural_with_group, "-n", "default")
        assert place.kubectl("auth", "can-i", *question).strip() == "yes"
        refused = place.kubectl.run(*ask, *question)
        assert (refused.returncode, refused.stdout.strip()) == (1, "no")
