"""Flower's own program for one message of a run whose bundle is hostile, or the guard in its place; for test_guard.

    python -m tests.clients.hostile_run stock|guarded BUNDLE PARTNER.TOML

The SuperNode is played: what it would send is at hand, and what would be sent to it is printed as one line of JSON.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.cli.config_utils import get_fab_config
from flwr.common.config import get_metadata_from_config
from flwr.supercore.fab import Fab
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime import run_clientapp as flower


def main(how, bundle, partner):
    content = Path(bundle).read_bytes()
    name, version = get_metadata_from_config(get_fab_config(content))
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 2
    message = Message(RecordDict({"config": ConfigRecord({"x": 1})}), dst_node_id=2, message_type="query.join")
    message.metadata.__dict__["_message_id"] = "m"
    context = Context(run_id=1, node_id=2, node_config={"partner": partner}, state=RecordDict(), run_config={})
    run = SimpleNamespace(run_id=1, fab_id=name, fab_version=version)
    fab = Fab(hash_str=sha256(content).hexdigest(), content=content, verifications={})
    flower.RuntimeHttpClient = flower.HeartbeatSender = flower.push_task_output = MagicMock()
    flower.pull_task_input = lambda _: (message, context, run, fab)
    flower.push_message = lambda _, reply, __: sys.stdout.write(f"REPLY {json.dumps(said(reply))}\n")
    arguments = ["--insecure", "--token", "x"]
    if how == "guarded":
        from pharma_fl.clients import guard

        guard.main(arguments)
    else:
        # Nothing of pharma_fl is imported yet, as in Flower's own program.
        assert not [module for module in sys.modules if module.startswith("pharma_fl")]
        flower.run_clientapp(runtime_api_address="127.0.0.1:1", token="x", insecure=True)


def said(reply):
    return {"error": reply.error.reason} if reply.has_error() else dict(reply.content["config"])


if __name__ == "__main__":
    main(*sys.argv[1:])
