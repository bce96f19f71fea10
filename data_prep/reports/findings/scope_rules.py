"""Negation, uncertainty and history cues, as phrases in a small pattern language.

A phrase is a sequence of items: a word in the normal form of `text.normal_form`; `{name}`, any word
of a class below; `..n`, up to n further words, none of a finding, a sign or a conjunction; `$`, the
end of the sentence or a sign. Rules are tried in order and each word belongs to one cue only:
exceptions ("no change", "not excluded") come before the general cue ("no").

Sources of cue words: Chapman et al., J Biomed Inform 34 (2001) 301-310 (NegEx); Harkema et al., 42
(2009) 839-851 (ConText); radiology reports of Indiana University's training part.
"""

from typing import NamedTuple

from data_prep.reports.findings.text import word_set

PRESENT, ABSENT, UNCERTAIN, PRIOR = "present", "absent", "uncertain", "prior"
ASSERTIONS = (PRESENT, ABSENT, UNCERTAIN, PRIOR)

NEUTRAL = "neutral"  # resembles a cue but asserts nothing; its words are consumed
EARLIER = "earlier"  # PRIOR unless the sentence states that the finding persists
DOUBTED = "doubted"  # a doubted negation: UNCERTAIN, although a negation reaches the finding

FORWARD, BACKWARD = "forward", "backward"
FLIP = "flip"  # forward, or backward where no finding follows in the clause
FLIP_BACK = "flip back"  # backward, or forward where no finding precedes in the clause
ADJACENT = "adjacent"  # backward to the finding just before, across no comma
NEXT = "next"  # forward to the next finding only
BESIDE = "beside"  # the nearest finding to either side
TOUCHING = "touching"  # the finding that begins within two words
ADJECTIVE = "adjective"  # like FLIP, but does not end a list of absent findings


class ScopeRule(NamedTuple):
    """A cue: assertion category, direction of its scope, and phrases."""

    category: str
    direction: str
    phrases: tuple[str, ...]


CLASSES = {
    "no": "no not without never neither nor nothing",
    "be": "is are was were be been being",
    "have": "has have had having",
    "modal": "may might could can should would must need",
    "change": "change increase decrease progression worsening improvement growth difference "
              "deterioration enlargement",
    "changed": "changed altered worse worsened larger bigger smaller increased decreased improved "
               "progressed different better grown",
    "resolved": "resolved cleared disappeared subsided gone",
    "resolution": "resolution clearing disappearance",
    "partial": "partial partially incomplete incompletely near nearly almost mostly largely some "
               "slight slightly mild mildly minimal slow slowly gradual "
               "gradually continued continuing ongoing",
    "aim": "ensure confirm document until demonstrate verify establish assure to for",
    "perceived": "seen identified evident present visualized visualised noted appreciated "
                 "demonstrated apparent detected visible found observed recognized shown "
                 "discernible suspected",
    "excluded": "excluded",
    "allow": "allow permit enable",
    "earlier": "before previously prior earlier previous",
    "previous": "prior previous previously earlier former old",
    "past": "prior previous previously earlier former",
    "study": "study exam examination film radiograph x ct scan image imaging comparison view "
             "chest series tomogram",
    "showed": "showed demonstrated revealed showing demonstrating",
    "none": "no none absent negative neg nil",
    "colon": ": - =",
    "open": "possible probable likely suspected questionable equivocal doubtful uncertain",
    "normal": "normal unremarkable clear",
    "time": "day week month year",
    "now": "this current today",
    "on": "on in",
    "hard": "difficult hard impossible",
}  # fmt: skip

RULES = (
    ScopeRule(DOUBTED, FLIP_BACK, (
        "neither ..1 confirmed nor {excluded}", "neither ..1 confirmed nor ruled out",
        "neither {excluded} nor confirmed", "neither ruled out nor confirmed",
        "{no} ..1 confirmed or {excluded}", "{no} ..1 confirmed or ruled out",
        "{no} ..2 confirmed", "{no} ..2 out of the question", "absence ..3 uncertain",
    )),
    ScopeRule(DOUBTED, FORWARD, (
        "{no} ..2 convinced", "{no} ..2 confident", "{no} ..1 sure", "{no} ..1 certain that",
        "{no} ..2 clear whether", "{no} ..1 clear if", "unclear whether", "unclear if",
        "{no} ..1 say", "{no} ..1 state", "{no} ..1 claim", "{no} ..1 assert",
    )),
    ScopeRule(NEUTRAL, FORWARD, (
        "no doubt", "without ..1 doubt", "without question", "no question that",
        "beyond ..1 doubt",
    )),
    ScopeRule(ABSENT, FLIP_BACK, ("not ..3 {perceived} ..2 {now}",)),
    ScopeRule(NEUTRAL, FORWARD, (
        "not ..3 {perceived} ..3 {earlier}", "not ..3 {perceived} {on} ..4 {study}",
        "{no} ..3 {change}", "{no} ..3 {changed}", "{no} ..1 only", "{no} just", "{no} merely",
        "{no} ..3 {resolved}", "{no} ..3 {resolution}", "fail to resolve", "failed to resolve",
        "lack of ..1 {resolution}", "near - complete {resolution}", "{be} not a new",
        "near - completely {resolved}", "no longer as", "no longer so", "{resolved} in part",
        "{resolved} {partial}", "{partial} ..1 {resolved}", "{partial} ..1 {resolution}",
        "{aim} ..2 {resolution}", "may {number}",
    )),
    ScopeRule(UNCERTAIN, FLIP, (
        "{no} ..4 exclude", "{no} ..4 rule out", "{no} ..4 excluding", "{no} ..3 exclusion of",
        "{no} ..1 {allow}", "{no} ..2 confirm", "{no} ..2 distinguished", "not ..2 typical",
        "{no} ..2 differentiated", "{no} ..2 distinguish", "{no} ..2 differentiate",
        "{no} ..1 certain",
    )),
    ScopeRule(UNCERTAIN, FLIP_BACK, (
        "{no} ..4 {excluded}", "{no} ..4 ruled out",
        "{modal} ..3 {excluded}", "{modal} ..3 ruled out", "to be ..1 {excluded}",
        "to be ..1 ruled out", "{modal} ..2 {perceived}", "{modal} ..2 considered",
        "{be} ..1 considered", "{be} ..1 suggested", "{be} ..2 consideration",
        "{be} ..2 possibility", "{be} ..2 concern", "in the differential", "{be} ..1 questioned",
        "in question", "{colon} {open}", "{be} ..2 {open} $",
    )),
    ScopeRule(PRIOR, FLIP_BACK, (
        "no longer ..3 {perceived}", "not ..1 any longer", "{have} ..3 {resolved}",
        "{be} ..2 {resolved}", "been removed",
    )),
    ScopeRule(UNCERTAIN, NEXT, ("improvement / {resolution}", "{resolution} / improvement")),
    ScopeRule(PRIOR, FLIP, ("no longer",)),
    ScopeRule(PRIOR, FORWARD, (
        "{resolution} of", "history of", "h / o", "hx", "history ..1 significant for",
    )),
    ScopeRule(PRIOR, FLIP, ("{resolved}",)),
    ScopeRule(EARLIER, FORWARD, (
        "{previous} ..2 {study} ..4 {showed}", "{previous} ..2 {study} , which ..1 {showed}",
        "{previous} ..2 {study} , {showed}",
    )),
    ScopeRule(NEUTRAL, FORWARD, ("{previous} ..2 {study}", "{previous} ..1 {time}")),
    ScopeRule(EARLIER, NEXT, (
        "{past} {perceived}", "{past} described", "{past} reported", "{past} finding of", "{past}",
    )),
    ScopeRule(EARLIER, FLIP_BACK, ("{have} ..2 healed",)),
    ScopeRule(EARLIER, ADJACENT, ("last {time}", "{time} ago", "in the past")),
    ScopeRule(UNCERTAIN, BESIDE, (
        "less likely than", "more likely than", "as likely as", "favored over", "favoured over",
    )),
    ScopeRule(UNCERTAIN, FLIP, (
        "less likely", "exclude", "rule out", "ruling out", "excluding", "exclusion of", "r / o",
        "{hard} to exclude", "{hard} to rule out", "excluded in",
    )),
    ScopeRule(ABSENT, FLIP_BACK, (
        "{excluded}", "ruled out", "not ..3 {perceived}", "never {perceived}", "unlikely",
        "{be} ..1 absent", "absent",
        "not ..1 developed", "not ..1 appeared", "not ..1 occurred",
    )),
    ScopeRule(ABSENT, FORWARD, (
        "negative for", "neg for", "free of", "free from", "clear of", "devoid of", "absence of",
        "lack of", "lacking", "deny", "denying", "w / o", "fail to", "failed to", "removal of",
    )),
    ScopeRule(ABSENT, TOUCHING, ("{be} clear", "and clear")),
    ScopeRule(ABSENT, NEXT, ("rather than", "instead of", "as opposed to")),
    ScopeRule(ABSENT, ADJACENT, (
        "{colon} {none} $", "( {none} )", "( not {perceived} )", "{colon} {none} evidence",
        "{colon} not {perceived}",
        "{be} ..2 {normal}", "within normal limit", "within limit of normal",
        "within the limit of normal", "is negative", "are negative",
    )),
    ScopeRule(ABSENT, FORWARD, ("{no}",)),
    ScopeRule(UNCERTAIN, BESIDE, ("versus", "vs", "v .")),
    ScopeRule(UNCERTAIN, ADJACENT, ("( ? )",)),
    ScopeRule(UNCERTAIN, FLIP, (
        "possible", "possibly", "possibility of", "may", "might", "could", "probable", "probably",
        "likely", "perhap", "presumed", "presumably", "potential", "potentially", "suspected",
        "suspect", "suspicious for", "suspicious of", "suspicion of", "suspicion for", "suggest",
        "suggesting", "suggestive",
        "suggestion of", "questionable", "question of", "questioned", "equivocal",
        "concern for", "concern of", "concern regarding", "concern about", "concerning for",
        "worrisome for", "doubtful", "doubt", "doubted",
    )),
    ScopeRule(UNCERTAIN, ADJECTIVE, ("suspicious", "worrisome")),
    ScopeRule(UNCERTAIN, FORWARD, (
        "question", "query", "if", "whether", "differential", "evaluate for", "evaluation for",
        "evaluation of possible", "assess for", "assessment for", "look for", "looking for",
        "search for", "correlate ..3 for", "correlation ..3 for", "consider", "?",
    )),
)  # fmt: skip

# A forward scope ends at these words; see also `scope._ends_scope`.
STOPS_FORWARD = word_set(
    "but however although though except exception ; which aside apart beside yet whereas "
    "while otherwise nevertheless despite"
)
STOPS_BACKWARD = word_set("but however although though except exception ; with without")
# A scope that has passed a finding also ends here, after a comma, `and` or `with`.
POSITIVE_ADJECTIVES = word_set(
    "small tiny mild mildly moderate minimal trace stable unchanged persistent residual "
    "slight subtle worsening increasing bibasilar new chronic known right left patchy streaky"
)
FINITE_VERBS = word_set(
    "is are was were has have had show showed demonstrate demonstrated reveal revealed remain "
    "remained appear appeared measure suggest represent contain persist involve do doe did "
    "may might could can should would"
)
AUXILIARIES = word_set(
    "is are was were be been being has have had may might could can should would must do doe "
    "did to not felt thought believed now clearly definitely definitively well longer no any also"
    " appear appeared remain remained"
)
DETERMINERS = word_set("the a an his her its both some another")
SUBJECTS = word_set("there it this these we he she patient")
DEFINITE = word_set("the this that these those known")
PREPOSITIONS = word_set(
    "in within of with to from overlying underlying adjacent near around surrounding behind "
    "beneath explain by superimposed"
)
# "The cause of the consolidation is not known" does not deny the consolidation.
ASPECTS = word_set("cause etiology aetiology source origin nature margin border extent age reason")
# "No bronchogram within the consolidation" presupposes it.
PLACED = word_set("within adjacent near around surrounding behind beneath overlying underlying for")
EVIDENCE = word_set("evidence sign support suggestion indication")
PERSISTENCE = word_set(
    "unchanged stable persist persistent persisting remain again still increased decreased "
    "improved improving worse worsened worsening larger smaller similar progressed residual "
    "redemonstrated present"
)
