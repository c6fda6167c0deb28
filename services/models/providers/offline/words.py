"""Word lists for reading English (and a little German) prose."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\S+", text))


STOP_WORDS = _words(
    """
    a about above after again all also am an and any are as at be because been before being below between both
    but by can could did do does doing down during each either else ever every few for from further had has have
    having he her here hers him his how however i if in into is it its itself just like may me might more most
    much must my no nor not now of off on once one only or other our out over own per rather same shall she
    should since so some such than that the their them then there these they this those though through thus to
    too under until up upon us very was we were what when where which while who whom why will with within
    without would yet you your
    """
)
"""Words that say nothing of what a text is about."""

TASK_WORDS = _words(
    """
    above act analyse analyze answer anybody article attached audience avoid begin below brief bullet busy
    central changed claim clear collect complete concise content context describe document draft each edit end
    essential exact example examples exclude extract fact facts find findings following found give given
    happened identify important include information input keep key know leave list main make material matter
    mattered matters most need needs order original output overview paragraph paragraphs people pick point
    points present produce provide pull quote quotes read reader repeat repetition report reports return say
    says select sentence sentences short somebody someone source sources statement statements sum summarise
    summarize summary supplied task tell text texts told topic true use using well whole without word words
    write written
    """
)
"""Words that say what to do with a text rather than what it is about."""

ABBREVIATIONS = _words(
    """
    al approx art ave bd bldg ca capt cf ch chap cmdr co col corp dept dr ed eds eg e.g esp est etc ex fig figs
    ft gen gov hon hr i.e ie inc jr lt ltd maj mr mrs ms mt no nos nr op p para pp prof pt rep rev sec sen sgt
    sr st supt viz vol vols vs jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri
    sat sun bzw evtl usw vgl
    """
)
"""What a full stop belongs to without ending a sentence, in lower case."""

LEANING_WORDS = _words(
    """
    both neither either he she it
    they him her them this these that those such here there his its their and but or nor so yet then
    thus hence therefore however moreover furthermore nevertheless nonetheless also besides otherwise instead
    meanwhile consequently accordingly similarly likewise indeed still because e.g i.e
    """
)
"""Openings that lean on the sentence before."""
