"""An adaptation made ready for the batch: what rows begin behind, its parts, how it is read.

All that only depends on the adaptation is computed here, once, with its method attached to the base
in the ordinary way: the encoded context, the trained prefix, virtual tokens become the keys and
values that rows begin behind; low-rank branches, gains and bottlenecks go into the bank.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapwood.adaptation import MAIN, Adaptation, BaseRef, load
from sapwood.errors import ConfigError, ModelError
from sapwood.evaluation import Bases, asked_safely, asking
from sapwood.evaluation.answerer import Answerer
from sapwood.evaluation.predictor import Predictor
from sapwood.evaluation.reader import Reader
from sapwood.evaluation.writer import Writer
from sapwood.methods import parts
from sapwood.methods.bank import check_mixable
from sapwood.methods.folder import FILES, attach_trained, read_method
from sapwood.methods.parts import Guest, Method, Part
from sapwood.methods.prefix_tuning import TrainedPrefix
from sapwood.methods.prompt import Lookup, VirtualTokens, virtual_ids
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix, behind
from sapwood.models.labels import LabelHead
from sapwood.models.layout import Row

_IN_SEEDS = (TrainedPrefix, VirtualTokens, Lookup)


@dataclass(frozen=True, kw_only=True)
class Resident:
    """One adaptation in memory.

    `made`: its parts that go into the bank, by path; `seeds`: what queries begin behind, by the
    identity of the prompter of their demonstrations; `bare`: what all else begins behind. `plain`:
    why it cannot be mixed with others, and is asked alone.
    """

    name: str
    digest: str
    adaptation: Adaptation | None = None
    method: Method | None = None
    made: Mapping[str, Part] = field(default_factory=dict)
    seeds: Mapping[int, Prefix] = field(default_factory=dict)
    bare: Prefix = NO_PREFIX
    reader: Reader | None = None
    writer: Writer | None = None
    head: LabelHead | None = None
    plain: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def key(self) -> str:
        """Return the name of this content in the bank."""
        return key_of(self.name, self.digest)

    @property
    def bytes(self) -> int:
        """Return the memory of its own tensors."""
        own = [t for part in self.made.values() for t in part.trained().values()]
        size = sum(t.numel() * t.element_size() for t in own)
        return size + sum(seed.bytes for seed in [*self.seeds.values(), self.bare])

    def asked(self, text: str) -> tuple[list[int], Prefix]:
        """Return the token ids of a query about `text`, and what they begin behind."""
        reader = self.reader
        assert reader is not None
        if reader.context.sharing == "query" and reader.context.encoding == "exact":
            pool, (choice,) = reader.context.demonstrations, reader.chooser.choose([text])
            return reader.prompter.whole(text, [pool[n] for n in choice]), self.bare
        ((_, prompter),) = reader.shared([text])
        return prompter.rest([text])[0], self.seeds[id(prompter)]

    def row(self, ids: Sequence[int]) -> Row:
        """Return the row of a query about labels: with their tokens only where these are read."""
        assert self.reader is not None and self.adaptation is not None
        if self.adaptation.reads == "features":
            return Row(ids=ids, wanted=(len(ids) - 1,))
        return self.reader.trie.row(ids)


def key_of(name: str, digest: str) -> str:
    """Return the name that the content of an adaptation has in the bank."""
    return f"{name}@{digest[:16]}"


def digest_of(folder: Path) -> str:
    """Return a digest of what an adaptation folder holds, whatever its name."""
    digest = sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inside = str(path.relative_to(folder))
        if inside == MAIN or inside in FILES or inside.endswith((".json", ".safetensors")):
            digest.update(inside.encode() + b"\0" + sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def prepare(name: str, folder: Path, bases: Bases, base: str, *, proven: bool) -> Resident:
    """Return the adaptation of `folder` ready to be served over `base`.

    Its golden probe must reproduce unless it is `proven` that this content did. A folder in PEFT's
    layout without an adaptation is one of a method alone. Raises ModelError as `adaptation.load`,
    `attach_trained` and `check_golden` do, E-MODEL-050 where it belongs to another base.
    """
    digest = digest_of(folder)
    if not (folder / MAIN).exists() and any((folder / file).exists() for file in FILES):
        return _method_alone(name, folder, digest, bases, base)
    made = load(folder)
    if made.base is not None:
        _check_base(made.base, bases, base)
        made = replace(made, base=replace(made.base, name=base))
    plain = _why_plain(made, bases, base)
    found = Resident(name=name, digest=digest, adaptation=made, method=made.method, plain=plain)
    if plain and proven:
        return found
    opened = asking(made, bases, stored=True) if proven else asked_safely(made, bases)
    with opened as asked:
        return found if plain else _filled(found, asked, bases.decoder(base))


def _check_base(ref: BaseRef, bases: Bases, base: str) -> None:
    own = bases.get(base)
    if own.sha256 != ref.sha256:
        raise ModelError(
            "E-MODEL-050",
            f"The base served here, '{base}', is not the one this adaptation was made for.",
            details=[f"made for '{ref.name}', {ref.sha256[:16]}; served is {own.sha256[:16]}"],
            fix=f"serve it over its own base: --base {ref.name}",
        )


def _why_plain(made: Adaptation, bases: Bases, base: str) -> str:
    """Return why an adaptation is asked alone, or ""."""
    if made.base is None:
        return "it needs no base"
    if bases.get(base).kind != "decoder":
        return f"its base is an {bases.get(base).kind}"
    if made.unmasked:
        return "it reads its base as an encoder"
    decoder = bases.decoder(base)
    if decoder.why_padded:
        return decoder.why_padded
    if made.readout.state()[0].get("scorer") == "channel":
        return "it scores texts given labels"
    return ""


def _method_alone(name: str, folder: Path, digest: str, bases: Bases, base: str) -> Resident:
    if bases.get(base).kind != "decoder" or bases.decoder(base).why_padded:
        raise ConfigError(
            "E-CONFIG-282",
            f"{folder} holds a method without a readout, which only a base that writes can use.",
            fix="adapt your data with it: sapwood adapt DATA",
        )
    method, tensors = read_method(folder)
    decoder = bases.decoder(base)
    attach_trained(decoder.net, method, tensors, where=str(folder))
    try:
        with torch.no_grad():
            bare = _behind(decoder, NO_PREFIX, virtual_ids(decoder.net))
        made, plain = _mixable(name, method, decoder.net)
    finally:
        parts.detach(decoder.net)
    if plain:
        raise ConfigError(
            "E-CONFIG-283",
            f"'{name}' cannot be served: {plain}.",
            fix="merge it, and serve the merged base: sapwood merge",
        )
    return Resident(name=name, digest=digest, method=method, made=made, bare=bare)


@torch.no_grad()
def _filled(found: Resident, asked: Any, decoder: Decoder) -> Resident:
    """Return it with what its rows need of an adaptation that is attached now."""
    writer, head = None, None
    if isinstance(asked, Answerer) and isinstance(asked.asked, Writer):
        writer, reader = asked.asked, asked.asked.reader
    elif isinstance(asked, Predictor) and isinstance(asked.reader, Reader):
        reader = asked.reader
        head = LabelHead(decoder.net, reader.trie)
    else:
        return replace(found, plain="its answers are found by another reader")
    made: dict[str, Part] = {}
    if found.method is not None:
        made, plain = _mixable(found.name, found.method, decoder.net)
        if plain:
            return replace(found, plain=plain)
    seeds = _seeds(reader, decoder)
    if seeds is None:
        return replace(found, plain="its contexts are chosen anew for each text")
    bare = _behind(decoder, NO_PREFIX, virtual_ids(decoder.net))
    return replace(
        found, made=made, seeds=seeds, bare=bare, reader=reader, writer=writer, head=head
    )


def _seeds(reader: Reader, decoder: Decoder) -> dict[int, Prefix] | None:
    """Return what queries begin behind, by prompter; None where not all can be known before."""
    context, suffix = reader.context, reader.virtual("suffix")
    if context.sharing == "query":
        return {} if context.encoding == "exact" else None
    prompters = [reader.prompter]
    if context.sharing == "group":
        medoids = [context.demonstrations[group[0]].text for group in context.groups]
        prompters = [prompter for _, prompter in reader.shared(medoids)]
        if len(prompters) < len(context.groups):
            return None
    for prompter in prompters:
        prompter.rest(["x"])  # the first query may shorten the prefix
    return {id(each): _behind(decoder, reader.prefix(each), suffix) for each in prompters}


def _mixable(name: str, method: Method, net: Any) -> tuple[dict[str, Part], str]:
    """Return the parts that go into a bank, and why they cannot, or ""."""
    made: dict[str, Part] = {}
    for path, part in parts.parts(net):
        if isinstance(part, _IN_SEEDS):
            continue
        if isinstance(part, Guest) or path in made:
            return {}, f"{method.describe()} cannot be mixed with others in a batch"
        try:
            check_mixable(name, method, part)
        except ConfigError as error:
            return {}, error.what.rstrip(".")
        made[path] = part
    return made, ""


def _behind(decoder: Decoder, prefix: Prefix, virtual: Sequence[int]) -> Prefix:
    """Return what rows begin behind: `prefix`, the net's trained prefix, then virtual tokens."""
    whole = behind(decoder, prefix)
    if not virtual:
        return whole
    (ran,) = decoder.capture([Row(ids=virtual)], whole)
    return whole.followed(ran.layers)


def label_inputs(resident: Resident, states: Sequence[Tensor]) -> Any:
    """Return what the readout of a resident reads, of rows' states, (nodes, hidden) each."""
    made, head = resident.adaptation, resident.head
    assert made is not None and head is not None
    grouped = torch.stack(list(states))
    if made.reads == "features":
        return grouped[:, 0].float().cpu().numpy()
    settings = made.readout.state()[0]
    with torch.no_grad():
        scores = head.scores(grouped, str(settings.get("normalise", "vocabulary")))
    return scores.double().cpu().numpy()
