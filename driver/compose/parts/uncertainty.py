"""Builds what settles doubts: this host's about others, and theirs about this host.

A doubt is something missing that nobody has explained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from driver.compose.parts.part import Part
from driver.model import HostId
from driver.services.directory.publisher import Publisher
from driver.services.ports import Directory, Endpoints, Links
from driver.services.upkeep.answering import RETRY_S, Answering
from driver.services.upkeep.uncertainty import Uncertainty
from driver.services.vips.mirror import VipMirror
from driver.store.answers import EtcdAnswers, EtcdPublications
from driver.store.endpoints import EtcdEndpoints
from driver.store.feeds.feeds import Feeds
from driver.store.kv.protocol import KeyValue
from driver.work.repeater import Repeater


@dataclass(frozen=True)
class Uncertain:
    """What settles this host's doubts, its runner, and what answers other hosts."""

    settling: Uncertainty
    answering: Answering
    parts: tuple[Part, ...]


def build_uncertainty(kv: KeyValue, me: HostId, feeds: Feeds, *, publisher: Publisher,
                      vips: VipMirror, directory: Directory, records: EtcdEndpoints,
                      endpoints: Endpoints, links: Links, ready: Callable[[], bool]) -> Uncertain:
    """Build all parts; ready: tells whether everything this host has is known, and on record."""
    answers = EtcdAnswers(kv, me, feeds)
    settling = Uncertainty(publisher=publisher, vips=vips, directory=directory,
                           answers=answers, publications=EtcdPublications(kv))
    answering = Answering(answers=answers, records=records, endpoints=endpoints, links=links,
                          ready=ready)
    settler = Repeater("what is in doubt", settling.run, settling.pause_s)
    answerer = Repeater("answers to other hosts", answering.run, RETRY_S)
    return Uncertain(settling, answering, (
        Part("questions of other hosts", lambda: answers.follow(answering.asked), answers.close),
        Part("what is in doubt", settler.start, settler.stop),
        Part("answers to other hosts", answerer.start, answerer.stop)))
