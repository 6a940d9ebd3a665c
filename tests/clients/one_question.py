"""Answers one message in a process of its own, as a SuperNode lets it be answered, and says what that took.

    python -I one_question.py QUESTION CONTENT PARTNER.TOML

The last line is JSON: the answer's status, every module that was imported, and seconds of CPU.
"""

import json
import resource
import sys
from pathlib import Path


def main(question, content, partner):
    from flwr.app import Context, Message, RecordDict
    from flwr.common.serde import recorddict_from_proto
    from flwr.proto.recorddict_pb2 import RecordDict as Proto
    from flwr.supercore.task_identity import TaskIdentity

    from pharma_fl.clients import guard

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 2
    asked = recorddict_from_proto(Proto.FromString(Path(content).read_bytes()))
    message = Message(asked, dst_node_id=2, message_type=question)
    message.metadata.__dict__["_message_id"] = "m"
    context = Context(run_id=1, node_id=2, node_config={"partner": partner}, state=RecordDict(), run_config={})
    started = cpu()
    said = dict(guard.app.app(message, context).content["config"])
    told = {"status": said["status"], "code": said.get("code"), "modules": sorted(sys.modules)}
    sys.stdout.write(json.dumps(told | {"start_s": started, "answer_s": cpu() - started}) + "\n")


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:])
