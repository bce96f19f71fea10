"""Reports in shorthand: findings of the impression shortened to forms that several concepts share.

A benchmark and training data for coherence. The findings section is unchanged; in the impression
each asserted mention becomes a short form ("pleural effusion" -> "effusion" or "PE"), and the words
for site and side are removed from its sentence. The gold is the concept of the unshortened text,
known for every mention; the candidates are the training concepts that share the form.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from data_prep.reports.findings.concepts import ConceptBase, split_code
from data_prep.reports.findings.linking import refine
from data_prep.reports.findings.mentions import AliasTable, Mention
from data_prep.reports.findings.text import Sentence
from data_prep.reports.linker.documents import EntityCandidate, LinkDocument, LinkMention, clamp
from data_prep.reports.linker.report_documents import (
    asserted_mentions,
    content,
    context_words,
    kind_of,
)

MAX_CANDIDATES = 50  # by p(concept | form), as in DCA before its own selection
SHORT_FORMS: dict[str, tuple[str, ...]] = {
    "air": ("Pneumothorax", "Hydropneumothorax", "Pneumoperitoneum", "Subcutaneous Emphysema"),
    "ca": ("Calcinosis", "Calcified Granuloma", "Mass"),
    "calcification": ("Calcinosis", "Calcified Granuloma", "Atherosclerosis",
                      "Granulomatous Disease"),
    "change": ("Thoracic Vertebrae", "Spine", "Emphysema", "Atherosclerosis", "Arthritis",
               "Surgical Instruments", "Cicatrix", "Granulomatous Disease"),
    "congestion": ("Pulmonary Congestion", "Pulmonary Edema", "Heart Failure", "Markings"),
    "curvature": ("Scoliosis", "Kyphosis", "Spine"),
    "device": ("Implanted Medical Device", "Medical Device", "Catheters, Indwelling", "Stents",
               "Tube, Inserted", "Surgical Instruments"),
    "disease": ("Airspace Disease", "Granulomatous Disease", "Emphysema", "Atherosclerosis",
                "Pulmonary Disease, Chronic Obstructive", "Lung Diseases, Interstitial",
                "Thoracic Vertebrae", "Spine"),
    "effusion": ("Pleural Effusion", "Pericardial Effusion"),
    "elevation": ("Diaphragm", "Diaphragmatic Eventration"),
    "enlargement": ("Cardiomegaly", "Cardiac Shadow", "Mediastinum", "Lymph Nodes",
                    "Pulmonary Artery", "Aortic Aneurysm"),
    "fracture": ("Fractures, Bone", "Deformity"),
    "hernia": ("Hernia, Hiatal", "Hernia, Diaphragmatic"),
    "infection": ("Pneumonia", "Infiltrate", "Airspace Disease", "Granulomatous Disease",
                  "Tuberculosis", "Bronchitis"),
    "lesion": ("Opacity", "Nodule", "Mass", "Density", "Granuloma", "Calcified Granuloma",
               "Lucency", "Cavitation", "Cysts"),
    "line": ("Catheters, Indwelling", "Tube, Inserted", "Medical Device"),
    "nodule": ("Nodule", "Granuloma", "Calcified Granuloma", "Density"),
    "opacity": ("Opacity", "Airspace Disease", "Infiltrate", "Consolidation", "Density",
                "Pulmonary Atelectasis"),
    "pe": ("Pleural Effusion", "Pericardial Effusion", "Pulmonary Edema", "Pulmonary Emphysema"),
    "scar": ("Cicatrix", "Pulmonary Fibrosis", "Thickening", "Pulmonary Atelectasis"),
    "spur": ("Osteophyte", "Spondylosis", "Thoracic Vertebrae", "Spine"),
    "tortuosity": ("Aorta", "Aorta, Thoracic"),
    "volume": ("Lung", "Volume Loss", "Pulmonary Atelectasis"),
}  # fmt: skip
_FORMS_OF: dict[str, list[str]] = {}
for _form, _headings in SHORT_FORMS.items():
    for _heading in _headings:
        _FORMS_OF.setdefault(_heading, []).append(_form)
# Qualifiers of appearance: their words stay in the text and are not part of the concept.
APPEARANCE = frozenset({
    "mild", "moderate", "severe", "small", "large", "borderline", "multiple", "multilobar",
    "scattered", "diffuse", "focal", "patchy", "streaky", "round", "irregular", "reticular",
    "chronic", "acute", "healed", "prominent", "obscured", "abnormal", "posterior", "anterior",
})  # fmt: skip


def concept_of(base: ConceptBase, mention: Mention) -> str:
    """The concept that the words of a mention state: heading, sites and side."""
    placed = [name for name in mention.qualifiers if name not in APPEARANCE]
    return refine(base, mention.targets[0], placed)


class _Shortened(NamedTuple):
    """Words of a report in shorthand; place, concept and form of each asserted mention."""

    words: list[str]
    places: list[int]
    concepts: list[str]
    forms: list[str]  # empty where the mention keeps its words


class Shorthand:
    """Makes documents in shorthand with the concepts of training reports as candidates.

    Args:
        train: (sentences, mentions) of the training reports.
    """

    def __init__(
        self, base: ConceptBase, train: Sequence[tuple[Sequence[Sentence], Sequence[Mention]]]
    ) -> None:
        self._base = base
        self._sites = AliasTable(
            (form, name)
            for name, forms in base.qualifier_aliases.items()
            if name not in APPEARANCE
            for form in forms
        )
        self._counts: Counter[str] = Counter()
        for _, mentions in train:
            self._counts.update(
                concept_of(base, mention) for mention in asserted_mentions(mentions)
            )
        self._sharing: dict[str, list[str]] = {form: [] for form in SHORT_FORMS}
        for concept in sorted(self._counts):
            for form in _FORMS_OF.get(split_code(concept)[0], ()):
                self._sharing[form].append(concept)

    def document(
        self,
        name: str,
        sentences: Sequence[Sentence],
        mentions: Sequence[Mention],
        counted: bool = False,
    ) -> LinkDocument:
        """The document of a report; only its shortened mentions may have several candidates.

        Args:
            name: Id of the report; with a mention's number it determines the chosen short form.
            counted: Whether it is a training report: its own mentions are then excluded from the
                priors, as for a new report.
        """
        stated = asserted_mentions(mentions)
        short = self._shorten(name, sentences, stated)
        own = Counter(short.concepts) if counted else Counter()
        found = []
        for mention, place, concept, form in zip(
            stated, short.places, short.concepts, short.forms, strict=True
        ):
            candidates = self._candidates(form, own) if form else (EntityCandidate(concept, 1.0),)
            surface = (form,) if form else content(mention.alias.split())
            found.append(
                LinkMention(
                    place, context_words(short.words, place), candidates, concept, kind_of(mention),
                    len(candidates), surface,
                )
            )  # fmt: skip
        return LinkDocument(name, tuple(found), content(short.words))

    def _candidates(self, form: str, own: Counter[str]) -> tuple[EntityCandidate, ...]:
        counts = {c: self._counts[c] - own[c] for c in self._sharing[form]}
        ranked = sorted((-n, concept) for concept, n in counts.items() if n > 0)
        total = -sum(n for n, _ in ranked)
        return tuple(
            EntityCandidate(name, clamp(-n / total)) for n, name in ranked[:MAX_CANDIDATES]
        )

    def _shorten(
        self, name: str, sentences: Sequence[Sentence], stated: Sequence[Mention]
    ) -> _Shortened:
        concepts = [concept_of(self._base, mention) for mention in stated]
        has_findings = any(mention.section == "findings" for mention in stated)
        forms = []
        for number, (mention, concept) in enumerate(zip(stated, concepts, strict=True)):
            known = _FORMS_OF.get(split_code(concept)[0], [])
            if not known or mention.section != "impression" or not has_findings:
                forms.append("")
            else:
                forms.append(known[crc32(f"{name}:{number}".encode()) % len(known)])
        words: list[str] = []
        places = [0] * len(stated)
        for number, sentence in enumerate(sentences):
            here = [i for i, mention in enumerate(stated) if mention.sentence == number]
            self._write(sentence, [(i, stated[i], forms[i]) for i in here], words, places)
        return _Shortened(words, places, concepts, forms)

    def _write(
        self,
        sentence: Sentence,
        mentions: Sequence[tuple[int, Mention, str]],
        words: list[str],
        places: list[int],
    ) -> None:
        """Append the words of a sentence in shorthand, and set the places of its mentions."""
        own = sentence.words
        dropped: set[int] = set()
        if any(form for _, _, form in mentions):
            for site in self._sites.find(own, overlap=True):
                dropped.update(site.used)
        starts: dict[int, tuple[int, str]] = {}
        for number, mention, form in mentions:
            inside = [
                at for at, token in enumerate(sentence.tokens)
                if mention.start <= token.start and token.end <= mention.end
            ]  # fmt: skip
            starts[inside[0]] = (number, form)
            dropped = dropped.union(inside) if form else dropped.difference(inside)
        for at, word in enumerate(own):
            number, form = starts.get(at, (-1, ""))
            if number >= 0:
                places[number] = len(words)
            if form or at not in dropped:
                words.append(form or word)


def ambiguous(mention: LinkMention) -> bool:
    """Whether a mention has more than one candidate: only these count in the benchmark."""
    return len(mention.candidates) > 1
