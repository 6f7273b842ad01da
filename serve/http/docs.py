"""Describes bodies for the OpenAPI page; FastAPI cannot, as bodies are parsed as a stream."""

from typing import Any

from pydantic import BaseModel

from serve.http.fields import LISTS


def describe_form(fields: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes these form fields and a file."""
    schema = fields.model_json_schema(ref_template="#/components/schemas/{model}")
    nested = schema.pop("$defs", {})
    properties = {
        name + "[]" * (name in LISTS): _inline(value, nested)
        for name, value in schema["properties"].items()
    }
    file = {"type": "string", "format": "binary", "description": "Any audio or video."}
    form = {
        "type": "object",
        "required": ["file", *schema["required"]],
        "properties": {"file": file, **properties},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def describe_raw(fields: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes a file as its body, with these fields in the query, or
    a form."""
    form = describe_form(fields)
    content = form["requestBody"]["content"]
    schema = content["multipart/form-data"]["schema"]
    schema["required"] = ["file"]
    left_out = ("file", "response_format", "stream")
    for name in left_out[1:]:
        del schema["properties"][name]
    query = [
        {"name": name, "in": "query", "schema": value}
        for name, value in schema["properties"].items()
        if name not in left_out
    ]
    raw = {"schema": {"type": "string", "format": "binary"}}
    return {
        "parameters": query,
        "requestBody": {"required": True, "content": {"application/octet-stream": raw, **content}},
    }


def describe_audio(query: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes a file as its body, with these parameters."""
    schema = query.model_json_schema(ref_template="#/components/schemas/{model}")
    parameters = [
        {"name": name, "in": "query", "schema": value}
        for name, value in schema["properties"].items()
    ]
    raw = {"schema": {"type": "string", "format": "binary"}}
    body = {"required": True, "content": {"audio/*": raw}}
    return {"parameters": parameters, "requestBody": body}


def describe_json(body: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes this as JSON."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    nested = schema.pop("$defs", {})
    content = {"application/json": {"schema": _inline(schema, nested)}}
    return {"requestBody": {"required": True, "content": content}}


def _inline(value: Any, nested: dict[str, Any]) -> Any:
    """Replace references with the definitions that they name."""
    if isinstance(value, list):
        return [_inline(item, nested) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inline(nested[value["$ref"].rpartition("/")[2]], nested)
    return {key: _inline(item, nested) for key, item in value.items()}
