"""The names of what a group has, for completion and for the names near one that is not found.

What this module needs for that it imports when it is asked: the command line starts without.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

_MOST = 200
_MOST_EXECUTIONS = 20


def names_of(client: "Client", resource: str) -> Iterable[str]:
    """The names, or the ids where there are no names, of the newest of a resource; none of one that is not known.

    A resource is called as the errors about it call it. Raises CoxswainError.
    """
    match resource:
        case "crew":
            from coxswain.orchestrator.v1.crew_pb2 import ListCrewsRequest

            return [crew.spec.name for crew in client.crews.ListCrews(ListCrewsRequest(page_size=_MOST)).crews]
        case "agent":
            from coxswain.orchestrator.v1.a2a_pb2 import ListPublicationsRequest

            agents = client.crews.ListPublications(ListPublicationsRequest(page_size=_MOST)).publications
            return [agent.crew_name for agent in agents]
        case "model":
            from coxswain.models.v1.model_pb2 import ListModelsRequest

            return [model.name for model in client.models.ListModels(ListModelsRequest(page_size=_MOST)).models]
        case "schedule":
            from coxswain.orchestrator.v1.schedule_pb2 import ListSchedulesRequest

            schedules = client.schedules.ListSchedules(ListSchedulesRequest(page_size=_MOST)).schedules
            return [schedule.name for schedule in schedules]
        case "webhook":
            from coxswain.orchestrator.v1.webhook_pb2 import ListWebhooksRequest

            webhooks = client.webhooks.ListWebhooks(ListWebhooksRequest(page_size=_MOST)).webhooks
            return [webhook.id for webhook in webhooks]
        case "execution":
            from coxswain.orchestrator.v1.execution_pb2 import ListExecutionsRequest

            request = ListExecutionsRequest(page_size=_MOST_EXECUTIONS)
            return [execution.id for execution in client.executions.ListExecutions(request).executions]
        case "tool":
            from coxswain.orchestrator.v1.tool_pb2 import ListToolsRequest

            return [tool.name for tool in client.tools.ListTools(ListToolsRequest(page_size=_MOST)).tools]
        case "tool source":
            from coxswain.orchestrator.v1.tool_source_pb2 import ListToolSourcesRequest

            sources = client.tool_sources.ListToolSources(ListToolSourcesRequest(page_size=_MOST)).sources
            return [source.spec.name for source in sources]
        case "secret":
            from coxswain.auth.v1.secret_pb2 import ListSecretsRequest

            return [secret.name for secret in client.secrets.ListSecrets(ListSecretsRequest(page_size=_MOST)).secrets]
        case "member":
            from coxswain.auth.v1.group_pb2 import ListMembersRequest

            return [one.subject for one in client.groups.ListMembers(ListMembersRequest(page_size=_MOST)).members]
        case "service token":
            from coxswain.auth.v1.service_token_pb2 import ListServiceTokensRequest

            tokens = client.service_tokens.ListServiceTokens(ListServiceTokensRequest(page_size=_MOST)).service_tokens
            return [token.name for token in tokens]
        case "group":
            return [membership.group_id for membership in client.whoami().groups]
        case _:
            return []
