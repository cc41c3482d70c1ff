"""What the chart makes of values: manifests by kind and name, as Helm's engine renders them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from referencing import Registry, Resource

from tests.chart.environment import KUBERNETES, PYTHON, schemas
from tests.support.process import PATIENCE_S, ROOT, clean_environment

CHART = ROOT / "deploy/helm/asr"
OURS = Path(__file__).parent / "schemas"
"""Schemas of kinds that are not Kubernetes' own."""
RELEASE, NAMESPACE = "demo", "speech"
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Release:
    """What one set of values makes.

    Attributes:
        manifests: text by template, without the notes.
        notes: what the person who installs it is told.
        lint: findings of `helm lint --strict`.
    """

    manifests: Mapping[str, str]
    notes: str
    lint: tuple[Any, ...]

    @cached_property
    def documents(self) -> list[Manifest]:
        """All that would be applied."""
        return [document for text in self.manifests.values() for document in _parsed(text)]

    @cached_property
    def name(self) -> str:
        """What the names of its parts begin with."""
        names: Iterator[str] = (
            one["metadata"]["name"] for one in self.documents if one["kind"] == "Deployment"
        )
        return next(name for name in names if name.endswith("-service")).removesuffix("-service")

    def of(self, kind: str) -> dict[str, Manifest]:
        """Those of one kind by name, without the release's own."""
        return {
            document["metadata"]["name"].removeprefix(self.name).removeprefix("-"): document
            for document in self.documents
            if document["kind"] == kind
        }

    def pod(self, component: str) -> Manifest:
        """The spec of a deployment's pods."""
        spec: Manifest = self.of("Deployment")[component]["spec"]["template"]["spec"]
        return spec

    def container(self, component: str, name: str | None = None) -> Manifest:
        """A container of a deployment's pods, the first one unless it is named."""
        containers: list[Manifest] = self.pod(component)["containers"]
        return next(one for one in containers if name in (None, one["name"]))

    def variables(self, component: str, name: str | None = None) -> dict[str, str]:
        """Variables of a container whose values stand there."""
        listed = self.container(component, name)["env"]
        assert len({one["name"] for one in listed}) == len(listed)
        return {one["name"]: one["value"] for one in listed if "value" in one}


def render(cases: Mapping[str, Manifest]) -> dict[str, Release | str]:
    """By name, what the chart makes of values, or why they are refused."""
    asked = json.dumps(
        {
            "chart": str(CHART),
            "kubernetes": KUBERNETES,
            "release": RELEASE,
            "namespace": NAMESPACE,
            "cases": cases,
        }
    )
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("render.py")],
        input=asked,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name: _read(told) for name, told in json.loads(done.stdout).items()}


def _read(told: Mapping[str, Any]) -> Release | str:
    if "refused" in told:
        return str(told["refused"])
    manifests = dict(told["manifests"])
    notes = manifests.pop("asr/templates/NOTES.txt")
    return Release(manifests, notes, tuple(told["lint"]))


@cache
def _parsed(text: str) -> tuple[Manifest, ...]:
    """The documents of a text; most texts come in many releases."""
    return tuple(document for document in yaml.load_all(text, yaml.CSafeLoader) if document)


class Schemas:
    """Kubernetes' schemas, each read once, and ours of what others add to it."""

    def __init__(self) -> None:
        folder = schemas()
        definitions = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
        self._folder = folder
        self._registry: Registry[Any] = Registry().with_resource("_definitions.json", definitions)
        self._registry = definitions @ self._registry
        self._validators: dict[Path, Any] = {}
        self._seen: set[str] = set()

    @property
    def different(self) -> int:
        """How many manifests were looked at."""
        return len(self._seen)

    def errors(self, document: Manifest) -> Iterator[str]:
        """What is wrong with a manifest. One that was seen before is not looked at again."""
        text = json.dumps(document, sort_keys=True)
        if text in self._seen:
            return
        self._seen.add(text)
        group, _, version = document["apiVersion"].rpartition("/")
        kind = document["kind"].lower()
        ours = OURS / f"{kind}.json"
        theirs = self._folder / f"{'-'.join(filter(None, (kind, group.partition('.')[0], version)))}.json"
        path = theirs if theirs.exists() else ours
        for error in self._validator(path).iter_errors(document):
            where = ".".join(map(str, error.absolute_path))
            yield f"{document['kind']} {document['metadata']['name']}: {where}: {error.message[:300]}"

    def _validator(self, path: Path) -> Any:
        if path not in self._validators:
            schema = json.loads(path.read_text())
            self._validators[path] = jsonschema.Draft202012Validator(schema, registry=self._registry)
        return self._validators[path]
