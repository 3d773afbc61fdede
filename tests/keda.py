"""KEDA's definition of the ScaledObject for an API server, made of the model that was generated from KEDA 2.16."""

from __future__ import annotations

from typing import Any

from cloudcoil.models.keda.v1alpha1 import ScaledObject

__all__ = ["scaled_object_definition"]

Schema = dict[str, Any]


def scaled_object_definition() -> dict[str, Any]:
    """A CustomResourceDefinition: what the model does not know, the API server does not keep."""
    whole = ScaledObject.model_json_schema(by_alias=True)
    properties = {
        name: _structural(whole["properties"][name], whole["$defs"])
        for name in ("apiVersion", "kind", "spec", "status")
    }
    version = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties, "required": ["spec"]}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {
            "group": "keda.sh",
            "names": {"kind": "ScaledObject", "plural": "scaledobjects", "singular": "scaledobject"},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """As Kubernetes wants it: without references, and of one type."""
    if "$ref" in schema:
        return _structural(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        one, *others = (each for each in schema["anyOf"] if each != {"type": "null"})
        return {"x-kubernetes-int-or-string": True} if others else _structural(one, definitions)
    made: Schema = {key: schema[key] for key in ("type", "enum", "required") if key in schema}
    if "properties" in schema:
        made["properties"] = {
            name: _structural(each, definitions) for name, each in schema["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = _structural(schema[key], definitions)
    return made
