"""The checks: each one is a function whose docstring is the requirement.

They hold a server to what client-go, kubectl and the controllers rely on. The words of the
Kubernetes documentation are "API concepts" and "Server-side apply"; what it leaves open is what
kube-apiserver does with a custom resource.
"""

from collections.abc import Callable
from dataclasses import dataclass

from conformance.imageapi.target import (
    APPLY,
    JSON_PATCH,
    MERGE,
    METADATA,
    METADATA_LIST,
    TABLE,
    Object,
    Place,
    equal,
    events,
    holds,
    names,
)

Run = Callable[[Place], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement and how to try it."""

    id: str
    requirement: str
    run: Run


CHECKS: list[Check] = []


def check(run: Run) -> Run:
    """Add a function to the checks."""
    CHECKS.append(Check(run.__name__.replace("_", "-"), (run.__doc__ or "").strip(), run))
    return run


def _tag(name: str, value: str = "x/y:1") -> Object:
    return {"name": name, "from": {"kind": "DockerImage", "name": value}}


@check
def discovery_lists_the_resource(place: Place) -> None:
    """Legacy discovery lists the resource with its verbs."""
    listed = place.expect(200, "GET", f"/apis/{place.group}/{place.version}")
    found = {item["name"]: item for item in listed["resources"]}[place.resource]
    equal((found["namespaced"], found["kind"]), (True, place.kind), "the resource")
    wanted = {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
    holds(wanted <= set(found["verbs"]), f"verbs are missing: {found['verbs']}")


@check
def aggregated_discovery_is_negotiated(place: Place) -> None:
    """Aggregated discovery v2 is answered at /apis to clients that ask for it."""
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    answer = place.ask("GET", "/apis", accept=f"{accept},application/json")
    holds("as=APIGroupDiscoveryList" in answer.headers["content-type"], "the type is another")
    groups = {item["metadata"]["name"] for item in answer.json()["items"]}
    holds(place.group in groups, f"the group is not in it: {groups}")


@check
def openapi_describes_patches(place: Place) -> None:
    """OpenAPI v3 has a PATCH operation of the kind with fieldValidation and dryRun."""
    index = place.expect(200, "GET", "/openapi/v3")
    path = index["paths"][f"apis/{place.group}/{place.version}"]["serverRelativeURL"]
    document = place.expect(200, "GET", path)
    wanted = {"group": place.group, "version": place.version, "kind": place.kind}
    found = [
        {parameter["name"] for parameter in (*item.get("parameters", ()), *patch["parameters"])}
        for item in document["paths"].values()
        if (patch := item.get("patch")) and patch["x-kubernetes-group-version-kind"] == wanted
    ]
    holds(any({"fieldValidation", "dryRun"} <= names for names in found), "there is none")


@check
def create_sets_identity(place: Place) -> None:
    """A new object gets uid, creationTimestamp, generation 1 and a resourceVersion."""
    metadata = place.make()["metadata"]
    for name in ("uid", "creationTimestamp", "resourceVersion"):
        holds(metadata.get(name), f"metadata.{name} is not set")
    equal(metadata["generation"], 1, "the generation")
    equal(metadata["namespace"], place.namespace, "the namespace")


@check
def create_twice_is_a_conflict(place: Place) -> None:
    """Creating what is there is 409 AlreadyExists, with the plural name as details.kind."""
    place.make()
    answer = place.expect(409, "POST", "", place.object())
    details = {"name": "app", "group": place.group, "kind": place.resource}
    equal((answer["reason"], answer["details"]), ("AlreadyExists", details), "the error")


@check
def create_in_another_namespace_is_refused(place: Place) -> None:
    """The namespace of the body must be that of the path."""
    sent = place.object()
    sent["metadata"]["namespace"] = "elsewhere"
    place.expect(400, "POST", "", sent)


@check
def names_are_generated(place: Place) -> None:
    """metadata.generateName is the beginning of a unique name."""
    sent = place.object()
    sent["metadata"] = {"generateName": "gen-"}
    found = {place.expect(201, "POST", "", sent)["metadata"]["name"] for _ in range(3)}
    holds(len(found) == 3 and all(name.startswith("gen-") for name in found), f"names: {found}")


@check
def a_trial_is_not_kept(place: Place) -> None:
    """dryRun=All answers as usual and keeps nothing."""
    place.expect(201, "POST", "?dryRun=All", place.object())
    place.expect(404, "GET", "app")
    place.expect(422, "POST", "?dryRun=Some", place.object())


@check
def a_missing_object_is_not_found(place: Place) -> None:
    """GET of what is not there is 404 NotFound with its name."""
    answer = place.expect(404, "GET", "none")
    message = f'{place.resource}.{place.group} "none" not found'
    equal((answer["reason"], answer["message"]), ("NotFound", message), "the error")


@check
def unknown_fields_are_warned_of(place: Place) -> None:
    """fieldValidation: Strict is 400, Warn is a Warning header, and nothing unknown is kept."""
    sent = place.object(unknown=1)
    refused = place.expect(400, "POST", "?fieldValidation=Strict", sent)
    holds('unknown field "spec.unknown"' in refused["message"], f"message: {refused['message']}")
    warned = place.ask("POST", "?fieldValidation=Warn", sent)
    equal(warned.headers.get("warning"), '299 - "unknown field \\"spec.unknown\\""', "the warning")
    holds("unknown" not in warned.json()["spec"], "the field was kept")
    place.expect(422, "POST", "?fieldValidation=Maybe", place.object("other"))


@check
def metadata_is_checked(place: Place) -> None:
    """Labels, finalizers and owner references that break the rules are 422 with their field."""
    for field, value in (
        ("labels", {"a": "b c"}),
        ("finalizers", ["a b"]),
        ("ownerReferences", [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": ""}]),
    ):
        sent = place.object()
        sent["metadata"][field] = value
        answer = place.expect(422, "POST", "", sent)
        fields = [cause["field"] for cause in answer["details"]["causes"]]
        holds(all(name.startswith(f"metadata.{field}") for name in fields), f"fields: {fields}")


@check
def finalizers_without_a_domain_are_warned_of(place: Place) -> None:
    """A finalizer without a domain is taken with a warning."""
    sent = place.object()
    sent["metadata"]["finalizers"] = ["mine"]
    answer = place.ask("POST", "", sent)
    equal(answer.status_code, 201, "the status")
    warning = answer.headers.get("warning", "")
    holds("prefer a domain-qualified finalizer name" in warning, f"the warning: {warning}")


@check
def a_stale_update_is_a_conflict(place: Place) -> None:
    """PUT with an old resourceVersion is 409 Conflict."""
    made = place.make()
    place.label("app", a="b")
    answer = place.expect(409, "PUT", "app", made)
    equal(answer["reason"], "Conflict", "the reason")


@check
def an_update_names_its_object(place: Place) -> None:
    """PUT of an object of another name is 400."""
    made = place.make()
    made["metadata"]["name"] = "other"
    place.expect(400, "PUT", "app", made)


@check
def generation_counts_changes_of_the_spec(place: Place) -> None:
    """metadata.generation grows with the spec, and not with labels."""
    place.make(lookupPolicy={"local": False})
    equal(place.label("app", a="b")["metadata"]["generation"], 1, "after a label")
    patch = {"spec": {"lookupPolicy": {"local": True}}}
    changed = place.expect(200, "PATCH", "app", patch, kind=MERGE)
    equal(changed["metadata"]["generation"], 2, "after a change of the spec")


@check
def an_update_of_nothing_is_not_written(place: Place) -> None:
    """PUT of what is there leaves the resourceVersion alone."""
    made = place.make(lookupPolicy={"local": False})
    again = place.expect(200, "PUT", "app", made)
    equal(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"], "the revision")


@check
def identity_cannot_be_patched(place: Place) -> None:
    """Patches can change neither name nor uid."""
    place.make()
    for field in ("name", "uid"):
        answer = place.ask("PATCH", "app", {"metadata": {field: "x"}}, kind=MERGE)
        holds(400 <= answer.status_code < 500, f"{field}: got {answer.status_code}")


@check
def patches_of_other_types_are_refused(place: Place) -> None:
    """A patch of an unknown type is 415."""
    place.make()
    place.expect(415, "PATCH", "app", {}, kind="application/x-patch")


@check
def a_failing_test_of_a_json_patch_is_invalid(place: Place) -> None:
    """JSON patch: a failing test is 422, a broken document 400, a working one 200."""
    place.make(lookupPolicy={"local": False})
    step: Object = {"op": "test", "path": "/spec/lookupPolicy/local", "value": True}
    place.expect(422, "PATCH", "app", [step], kind=JSON_PATCH)
    place.expect(400, "PATCH", "app", b"{", kind=JSON_PATCH)
    step = {"op": "replace", "path": "/spec/lookupPolicy/local", "value": True}
    changed = place.expect(200, "PATCH", "app", [step], kind=JSON_PATCH)
    equal(changed["spec"]["lookupPolicy"]["local"], True, "the value")


@check
def apply_makes_and_owns(place: Place) -> None:
    """Server-side apply makes an object, and its manager owns what it applied."""
    sent = place.object(tags=[_tag("a")])
    made = place.expect(201, "PATCH", "app?fieldManager=one", sent, kind=APPLY)
    entry = made["metadata"]["managedFields"][0]
    equal((entry["manager"], entry["operation"]), ("one", "Apply"), "the entry")
    item = entry["fieldsV1"]["f:spec"]["f:tags"]['k:{"name":"a"}']
    holds({".", "f:name", "f:from"} <= item.keys(), f"fields: {item}")


@check
def apply_twice_changes_nothing(place: Place) -> None:
    """Applying the same again leaves the resourceVersion alone."""
    sent = place.object(tags=[_tag("a")])
    made = place.expect(201, "PATCH", "app?fieldManager=one", sent, kind=APPLY)
    again = place.expect(200, "PATCH", "app?fieldManager=one", sent, kind=APPLY)
    equal(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"], "the revision")


@check
def apply_removes_what_is_not_applied_any_more(place: Place) -> None:
    """What a manager applied before and does not apply now is gone, and others' things stay."""
    both = place.object(tags=[_tag("a"), _tag("b")])
    place.expect(201, "PATCH", "app?fieldManager=one", both, kind=APPLY)
    place.expect(
        *(200, "PATCH", "app?fieldManager=two", place.object(tags=[_tag("b")])), kind=APPLY
    )
    left = place.expect(200, "PATCH", "app?fieldManager=one", place.object(), kind=APPLY)
    equal([tag["name"] for tag in left["spec"].get("tags", [])], ["b"], "the tags")


@check
def apply_against_another_manager_is_a_conflict(place: Place) -> None:
    """What another manager owns is 409 with its name, and is taken over by force."""
    mine, theirs = place.object(tags=[_tag("a")]), place.object(tags=[_tag("a", "x/y:2")])
    place.expect(201, "PATCH", "app?fieldManager=one", mine, kind=APPLY)
    answer = place.expect(409, "PATCH", "app?fieldManager=two", theirs, kind=APPLY)
    cause = answer["details"]["causes"][0]
    equal(cause["reason"], "FieldManagerConflict", "the reason")
    equal(cause["field"], '.spec.tags[name="a"].from.name', "the field")
    holds('"one"' in cause["message"], f"message: {cause['message']}")
    place.expect(200, "PATCH", "app?fieldManager=two&force=true", theirs, kind=APPLY)


@check
def apply_needs_a_manager(place: Place) -> None:
    """Server-side apply without fieldManager is 4xx."""
    answer = place.ask("PATCH", "app", place.object(), kind=APPLY)
    holds(400 <= answer.status_code < 500, f"got {answer.status_code}")


@check
def updates_are_managed(place: Place) -> None:
    """Other writes are entries of their field manager, too, which apply can conflict with."""
    place.expect(201, "POST", "?fieldManager=made", place.object(tags=[_tag("a")]))
    answer = place.expect(
        *(409, "PATCH", "app?fieldManager=two", place.object(tags=[_tag("a", "x/y:2")])), kind=APPLY
    )
    holds('conflict with "made"' in answer["details"]["causes"][0]["message"], f"{answer}")


@check
def delete_says_what_is_gone(place: Place) -> None:
    """DELETE answers with a Status that has the uid, and then there is nothing any more."""
    uid = place.make()["metadata"]["uid"]
    answer = place.expect(200, "DELETE", "app")
    details = {"name": "app", "group": place.group, "kind": place.resource, "uid": uid}
    equal((answer["status"], answer["details"]), ("Success", details), "the answer")
    place.expect(404, "DELETE", "app")


@check
def delete_heeds_preconditions(place: Place) -> None:
    """DELETE with another uid or resourceVersion is 409."""
    place.make()
    for wanted in ({"uid": "other"}, {"resourceVersion": "1"}):
        place.expect(409, "DELETE", "app", {"preconditions": wanted})


@check
def delete_heeds_its_options(place: Place) -> None:
    """DELETE refuses policies that there are not."""
    place.make()
    place.expect(422, "DELETE", "app", {"propagationPolicy": "Never"})


@check
def finalizers_are_waited_for(place: Place) -> None:
    """An object with finalizers gets a deletionTimestamp, and is gone with the last of them."""
    sent = place.object()
    sent["metadata"]["finalizers"] = ["example.com/wait"]
    place.expect(201, "POST", "", sent)
    waiting = place.expect(200, "DELETE", "app")["metadata"]
    holds(waiting.get("deletionTimestamp"), "there is no deletionTimestamp")
    equal(waiting.get("deletionGracePeriodSeconds"), 0, "deletionGracePeriodSeconds")
    place.expect(
        *(422, "PATCH", "app"),
        {"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}},
        kind=MERGE,
    )
    place.expect(200, "PATCH", "app", {"metadata": {"finalizers": None}}, kind=MERGE)
    place.expect(404, "GET", "app")


@check
def a_collection_is_deleted_by_its_labels(place: Place) -> None:
    """DELETE of a collection deletes what the selector selects."""
    for name, team in (("a", "x"), ("b", "y"), ("c", "x")):
        place.make(name, {"team": team})
    place.expect(200, "DELETE", "?labelSelector=team%3Dx")
    equal(names(place.expect(200, "GET")), ["b"], "what is left")


@check
def lists_are_lists(place: Place) -> None:
    """An empty list has items [], its own kind and a resourceVersion."""
    listed = place.expect(200, "GET")
    equal((listed["kind"], listed["items"]), (f"{place.kind}List", []), "the list")
    holds(listed["metadata"]["resourceVersion"], "it has no resourceVersion")


@check
def pages_are_of_one_state(place: Place) -> None:
    """All pages show what there was when the first was asked for."""
    for number in range(5):
        place.make(f"p{number}")
    first = place.expect(200, "GET", "?limit=2")
    place.expect(200, "DELETE", "p3")
    place.make("p9")
    second = place.expect(200, "GET", f"?limit=2&continue={first['metadata']['continue']}")
    third = place.expect(200, "GET", f"?limit=2&continue={second['metadata']['continue']}")
    found = [*names(first), *names(second), *names(third)]
    equal(found, ["p0", "p1", "p2", "p3", "p4"], "the pages")
    equal(first["metadata"]["remainingItemCount"], 3, "remainingItemCount")
    holds(not third["metadata"].get("continue"), "the last page goes on")


@check
def labels_select(place: Place) -> None:
    """Every form of label selectors selects as it says, and nonsense is 400."""
    place.make("a", {"x": "1"})
    place.make("b", {"x": "2"})
    place.make("c")
    for selector, expected in (
        *(("x=1", ["a"]), ("x!=1", ["b", "c"]), ("x in (1,2)", ["a", "b"])),
        *(("x notin (1)", ["b", "c"]), ("x", ["a", "b"]), ("!x", ["c"])),
    ):
        listed = place.client.get(place.collection, params={"labelSelector": selector}).json()
        equal(names(listed), expected, selector)
    place.expect(400, "GET", "?labelSelector=a%20b")


@check
def names_select(place: Place) -> None:
    """metadata.name is a field selector, and unknown fields are 400."""
    place.make("a")
    place.make("b")
    equal(names(place.expect(200, "GET", "?fieldSelector=metadata.name%3Db")), ["b"], "the list")
    place.expect(400, "GET", "?fieldSelector=spec.none%3Db")


@check
def revisions_of_lists_are_checked(place: Place) -> None:
    """A list knows revisions, and the ways in which they may be asked for."""
    revision = place.expect(200, "GET")["metadata"]["resourceVersion"]
    place.make()
    exact = f"?resourceVersion={revision}&resourceVersionMatch=Exact"
    equal(names(place.expect(200, "GET", exact)), [], "the exact state")
    place.expect(200, "GET", "?resourceVersion=0")
    for query in (
        *("resourceVersionMatch=Exact", "resourceVersionMatch=Exact&resourceVersion=0"),
        *("resourceVersionMatch=Some&resourceVersion=1", "sendInitialEvents=true"),
    ):
        place.expect(422, "GET", f"?{query}")
    place.expect(400, "GET", "?continue=nonsense")


@check
def a_revision_of_the_future_says_how_to_recover(place: Place) -> None:
    """A resourceVersion that is too large is 504 with the cause that client-go looks for."""
    answer = place.expect(504, "GET", "?resourceVersion=99999999999")
    equal(answer["details"]["causes"][0]["reason"], "ResourceVersionTooLarge", "the cause")


@check
def a_watch_goes_on_behind_a_revision(place: Place) -> None:
    """A watch from a revision has each later change once and in order."""
    revision = place.make("a")["metadata"]["resourceVersion"]
    with place.watch(f"resourceVersion={revision}") as stream:
        place.label("a", x="y")
        place.make("b")
        place.expect(200, "DELETE", "a")
        found = events(stream, 3)
    equal(found, [("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")], "the events")


@check
def a_watch_without_a_revision_begins_with_what_there_is(place: Place) -> None:
    """Without a resourceVersion a watch begins with ADDED events of what there is."""
    place.make("a")
    with place.watch("") as stream:
        equal(events(stream, 1), [("ADDED", "a")], "the events")


@check
def what_stops_matching_is_deleted_for_a_watch(place: Place) -> None:
    """Objects come to and go from a watch as its selector begins and ends to match."""
    revision = place.make("a")["metadata"]["resourceVersion"]
    with place.watch(f"resourceVersion={revision}&labelSelector=x%3Dy") as stream:
        place.label("a", x="y")
        place.label("a", z="1")
        place.label("a", x=None)
        found = events(stream, 3)
    equal(found, [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")], "the events")


@check
def initial_events_end_with_a_bookmark(place: Place) -> None:
    """SendInitialEvents streams what there is, then a bookmark that says so, then changes."""
    place.make("a")
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    with place.watch(query) as stream:
        equal(events(stream, 1), [("ADDED", "a")], "the initial events")
        bookmark = next(stream)
        equal(bookmark["type"], "BOOKMARK", "the next event")
        annotations = bookmark["object"]["metadata"].get("annotations", {})
        equal(annotations.get("k8s.io/initial-events-end"), "true", "its annotation")
        equal(bookmark["object"]["kind"], place.kind, "its kind")
        place.make("b")
        equal(events(stream, 1), [("ADDED", "b")], "the events")
    place.expect(422, "GET", "?watch=true&sendInitialEvents=true")


@check
def tables_are_rendered(place: Place) -> None:
    """as=Table gives columns and rows with metadata, for one object and for lists."""
    place.make("a")
    for path in ("", "a"):
        table = place.expect(200, "GET", path, accept=f"{TABLE},application/json")
        equal(table["kind"], "Table", "the kind")
        equal(table["columnDefinitions"][0]["name"], "Name", "the first column")
        equal(table["rows"][0]["cells"][0], "a", "the first cell")
        equal(table["rows"][0]["object"]["kind"], "PartialObjectMetadata", "the row's object")
        equal(table["rows"][0]["object"]["metadata"]["name"], "a", "its name")


@check
def metadata_alone_is_rendered(place: Place) -> None:
    """as=PartialObjectMetadata gives metadata and nothing else."""
    made = place.make("a")
    one = place.expect(200, "GET", "a", accept=METADATA)
    equal(one.keys(), {"kind", "apiVersion", "metadata"}, "what is in it")
    equal(one["metadata"]["uid"], made["metadata"]["uid"], "the uid")
    many = place.expect(200, "GET", "", accept=METADATA_LIST)
    equal((many["kind"], names(many)), ("PartialObjectMetadataList", ["a"]), "the list")


@check
def only_what_can_be_written_is_accepted(place: Place) -> None:
    """Accept without a type that can be written is 406."""
    place.expect(406, "GET", "", accept="image/png")


@check
def broken_bodies_are_bad_requests(place: Place) -> None:
    """Bodies that are no objects are 400, and those of another type 415."""
    for body in (b"{", b"[]", b'{"metadata": 3}'):
        place.expect(400, "POST", "", body)
    place.expect(415, "POST", "", b"{}", kind="text/plain")


@check
def large_bodies_are_refused(place: Place) -> None:
    """A body of more than 3 MiB is 413."""
    sent = place.object()
    sent["metadata"]["annotations"] = {"a": "x" * (3 * 2**20 + 1)}
    place.expect(413, "POST", "", sent)


@check
def what_is_not_there_is_an_error(place: Place) -> None:
    """Paths and verbs that there are not are 4xx, and nothing redirects."""
    for method, path in (
        ("GET", f"/apis/{place.group}/{place.version}/nothing"),
        ("PUT", place.collection),
    ):
        answer = place.ask(method, path, place.object())
        holds(answer.status_code in (400, 404, 405), f"{method} {path}: {answer.status_code}")
