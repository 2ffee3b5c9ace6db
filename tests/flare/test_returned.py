"""Sites that start anew; only the engine, which a server provides, is stood in for."""

from types import SimpleNamespace

from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedKey, RunProcessKey
from nvflare.apis.fl_context import FLContext

from fedmr.flare import returned
from fedmr.flare.returned import ReturnedSites


class Engine:
    """What a server knows: who is registered, and the clients with which a job started."""

    def __init__(self, *clients):
        self.clients = list(clients)
        self.run_processes = {"job": {RunProcessKey.PARTICIPANTS: {c.token: c for c in clients}}}
        self.dead, self.resolved = [], []
        self.job_runner = SimpleNamespace(resolve_client_outcome=lambda job, site: self.resolved.append((job, site)))

    def get_clients(self):
        return self.clients

    def notify_dead_job(self, job, site, reason):
        self.dead.append((job, site))


def hear(component, engine, event=EventType.CLIENT_HEARTBEAT_PROCESSED):
    context = FLContext()
    context.set_prop(ReservedKey.ENGINE, engine, private=True)
    component.handle_event(event, context)


def test_a_site_with_another_token_than_the_jobs_is_reported_and_not_waited_for():
    engine, component = Engine(Client("site-1", "a"), Client("site-2", "b")), ReturnedSites()
    hear(component, engine)
    assert engine.dead == []
    engine.clients.append(Client("site-2", "c"))  # FLARE keeps the old token until its heartbeats are missed
    hear(component, engine, EventType.CLIENT_REGISTER_PROCESSED)
    assert engine.dead == engine.resolved == [("job", "site-2")]
    hear(component, engine)
    assert len(engine.dead) == 1


def test_it_is_reported_again_for_the_next_workflow_also_when_the_old_token_is_gone(monkeypatch):
    engine, component = Engine(Client("site-2", "b")), ReturnedSites()
    engine.clients = [Client("site-2", "c")]
    hear(component, engine)
    monkeypatch.setattr(returned, "_AGAIN", 0.0)
    hear(component, engine)
    assert engine.dead == [("job", "site-2")] * 2


def test_a_site_that_is_merely_gone_or_has_no_part_is_none_of_its_business():
    engine, component = Engine(Client("site-1", "a"), Client("site-2", "b")), ReturnedSites()
    engine.clients = [Client("site-1", "a"), Client("site-3", "d")]
    engine.run_processes["starting"] = {}
    for event in (EventType.CLIENT_HEARTBEAT_PROCESSED, EventType.CLIENT_REGISTER_PROCESSED, EventType.START_RUN):
        hear(component, engine, event)
    assert engine.dead == []
