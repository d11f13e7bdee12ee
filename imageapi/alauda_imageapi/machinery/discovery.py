"""What there is, told to clients: legacy and aggregated discovery (facts/apiserver.md 2.2)."""

from collections.abc import Sequence

from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.representations import parse_accept
from alauda_imageapi.machinery.resources import Group, Resource

AGGREGATED_TYPE = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class Discovery:
    """The discovery documents of one group.

    Args:
        group: The group.
        resources: What is in it.
    """

    def __init__(self, group: Group, resources: Sequence[Resource]) -> None:
        self._group = group
        self._resources = resources

    def groups(self) -> Object:
        """Return the list of groups, which is this one."""
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [self._version_list()]}

    def one_group(self) -> Object:
        """Return the group."""
        return {"kind": "APIGroup", "apiVersion": "v1", **self._version_list()}

    def resources(self) -> Object:
        """Return what is in the group."""
        listed: list[Object] = []
        for resource in self._resources:
            listed.append(
                {
                    "name": resource.name,
                    "singularName": resource.singular,
                    "namespaced": resource.namespaced,
                    "kind": resource.kind,
                    "verbs": list(resource.verbs),
                    **({"shortNames": list(resource.short_names)} if resource.short_names else {}),
                    **({"categories": list(resource.categories)} if resource.categories else {}),
                }
            )
            listed += [
                {
                    "name": f"{resource.name}/{part.name}",
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "kind": part.kind,
                    "verbs": list(part.verbs),
                }
                for part in resource.subresources
            ]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": self._group.api_version,
            "resources": listed,
        }

    def aggregated(self) -> Object:
        """Return all of it in one document."""
        version = {
            "version": self._group.version,
            "freshness": "Current",
            "resources": [self._aggregated(resource) for resource in self._resources],
        }
        group = {
            "metadata": {"name": self._group.name, "creationTimestamp": None},
            "versions": [version],
        }
        return aggregated_list([group])

    def _aggregated(self, resource: Resource) -> Object:
        return {
            "resource": resource.name,
            "responseKind": self._response_kind(resource.kind),
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "singularResource": resource.singular,
            "verbs": list(resource.verbs),
            **({"shortNames": list(resource.short_names)} if resource.short_names else {}),
            **({"categories": list(resource.categories)} if resource.categories else {}),
            "subresources": [
                {
                    "subresource": part.name,
                    "responseKind": self._response_kind(part.kind),
                    "verbs": list(part.verbs),
                }
                for part in resource.subresources
            ],
        }

    def _response_kind(self, kind: str) -> Object:
        return {"group": self._group.name, "version": self._group.version, "kind": kind}

    def _version_list(self) -> Object:
        version = {"groupVersion": self._group.api_version, "version": self._group.version}
        return {"name": self._group.name, "versions": [version], "preferredVersion": version}


def aggregated_list(groups: list[Object]) -> Object:
    """Return a document of aggregated discovery."""
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": groups,
    }


def wants_aggregated(accept: str) -> bool:
    """Tell whether a client prefers aggregated discovery, in the version that we have."""
    for clause in parse_accept(accept):
        given = clause.parameters
        if given.get("as") is None:
            return False
        if (given["as"], given.get("g"), given.get("v")) == (
            "APIGroupDiscoveryList",
            "apidiscovery.k8s.io",
            "v2",
        ):
            return True
    return False
