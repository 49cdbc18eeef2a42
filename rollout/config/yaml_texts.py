"""YAML in which text stays unchanged if the schema says text, as in `rollout.config.overrides` for a command.

YAML 1.1 reads `2024_01_05` as a number, `yes` as a boolean and `12:30` as seconds, whatever the type of the key.
"""

import re
from typing import Any, get_origin

import yaml

from rollout.config import RunConfig
from rollout.config.keys import type_of_item

_TEXT, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"


def load(text: str, kind: Any = RunConfig, loader: Any = yaml.SafeLoader) -> Any:
    """The values of a YAML document that fills the type `kind` of the schema. Raises yaml.YAMLError."""
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        _keep_texts(node, kind)
        return reader.construct_document(node)
    finally:
        reader.dispose()


def dump(values: dict[str, Any]) -> str:
    """YAML from which every reader gets the same `values`, also a reader of YAML 1.2."""
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    # PyYAML does not escape every character that its reader folds
    return text if yaml.safe_load(text) == values else yaml.dump(values, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Also quotes texts that are numbers only for other readers: OmegaConf, and YAML 1.2."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$|^0o[0-7]+$"),
    list("-+.0123456789"),
)


def _keep_texts(node: yaml.Node, kind: Any, is_item: bool = False) -> None:
    if isinstance(node, yaml.ScalarNode):
        if kind is str and not node.style and (is_item or node.tag != _NULL):
            node.tag = _TEXT
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _keep_texts(item, type_of_item(kind, "") if get_origin(kind) is list else None, is_item=True)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _keep_texts(value, type_of_item(kind, str(key.value)))
