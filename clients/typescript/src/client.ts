/** Every service of an installation, and what takes several calls as one method. */

import { readFileSync } from "node:fs";

import * as grpc from "@grpc/grpc-js";
import { fromJson } from "@bufbuild/protobuf";
import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import type { Client, Transport } from "@connectrpc/connect";

import { addressesOf, SERVICES } from "./addresses.js";
import type { Addresses, Service } from "./addresses.js";
import { withIdentity } from "./calls.js";
import type { Identity } from "./calls.js";
import { grpcTransport } from "./grpc_transport.js";
import type { ClosableTransport } from "./grpc_transport.js";
import { watch, watchBudgetAlerts, watchExecutions, watchQuestions } from "./watching.js";
import type { WatchExecutionsOptions, WatchOptions, WatchSequenceOptions } from "./watching.js";
import { AuthService } from "./gen/coxswain/auth/v1/auth_service_pb.js";
import { GroupService } from "./gen/coxswain/auth/v1/group_service_pb.js";
import { SecretService } from "./gen/coxswain/auth/v1/secret_service_pb.js";
import { ServiceTokenService } from "./gen/coxswain/auth/v1/service_token_service_pb.js";
import { DocumentService } from "./gen/coxswain/memory/v1/document_service_pb.js";
import { MemoryBackendService } from "./gen/coxswain/memory/v1/memory_backend_service_pb.js";
import { MemoryService } from "./gen/coxswain/memory/v1/memory_service_pb.js";
import { VectorIndexService } from "./gen/coxswain/memory/v1/vector_index_service_pb.js";
import { InferenceService } from "./gen/coxswain/models/v1/inference_service_pb.js";
import { ModelService } from "./gen/coxswain/models/v1/model_service_pb.js";
import type { WatchBudgetAlertsResponse } from "./gen/coxswain/models/v1/usage_pb.js";
import { UsageService } from "./gen/coxswain/models/v1/usage_service_pb.js";
import { ArtifactService } from "./gen/coxswain/orchestrator/v1/artifact_service_pb.js";
import { BatchService } from "./gen/coxswain/orchestrator/v1/batch_service_pb.js";
import { CrewService } from "./gen/coxswain/orchestrator/v1/crew_service_pb.js";
import type { Execution, ExecutionEvent, WatchExecutionsResponse } from "./gen/coxswain/orchestrator/v1/execution_pb.js";
import { ExecutionService } from "./gen/coxswain/orchestrator/v1/execution_service_pb.js";
import type { Question, WatchQuestionsResponse } from "./gen/coxswain/orchestrator/v1/question_pb.js";
import { QuestionService } from "./gen/coxswain/orchestrator/v1/question_service_pb.js";
import { ScheduleService } from "./gen/coxswain/orchestrator/v1/schedule_service_pb.js";
import { ToolService } from "./gen/coxswain/orchestrator/v1/tool_service_pb.js";
import { ToolSourceService } from "./gen/coxswain/orchestrator/v1/tool_source_service_pb.js";
import { WebhookService } from "./gen/coxswain/orchestrator/v1/webhook_service_pb.js";
import { WorkerService } from "./gen/coxswain/orchestrator/v1/worker_service_pb.js";

/** Where the services are, and who calls. */
export interface CoxswainOptions extends Identity {
  /** See `addressesOf`. */
  address?: string | Addresses;
  /** PEM file of the authorities to trust; means TLS. */
  caFile?: string;
  /** Makes the transport to an address, in place of @grpc/grpc-js: for example createGrpcTransport of Connect. */
  transport?: (address: string) => Transport;
}

/** What an execution is started with, besides its inputs. */
export interface StartOptions {
  /** Makes it safe to start again after a restart of this program; each call has one of its own if left out. */
  requestId?: string;
  /** The model of all agents that name none themselves; the crew's own if left out. */
  model?: string;
  /** Labels to find it by. */
  labels?: Record<string, string>;
}

/** All services of one installation, behind one address or each at its own. */
export class Coxswain {
  readonly auth: Client<typeof AuthService>;
  readonly groups: Client<typeof GroupService>;
  readonly secrets: Client<typeof SecretService>;
  readonly serviceTokens: Client<typeof ServiceTokenService>;
  readonly models: Client<typeof ModelService>;
  readonly inference: Client<typeof InferenceService>;
  readonly usage: Client<typeof UsageService>;
  readonly memory: Client<typeof MemoryService>;
  readonly documents: Client<typeof DocumentService>;
  readonly memoryBackends: Client<typeof MemoryBackendService>;
  readonly vectorIndexes: Client<typeof VectorIndexService>;
  readonly crews: Client<typeof CrewService>;
  readonly executions: Client<typeof ExecutionService>;
  readonly artifacts: Client<typeof ArtifactService>;
  readonly questions: Client<typeof QuestionService>;
  readonly batches: Client<typeof BatchService>;
  readonly schedules: Client<typeof ScheduleService>;
  readonly tools: Client<typeof ToolService>;
  readonly toolSources: Client<typeof ToolSourceService>;
  readonly webhooks: Client<typeof WebhookService>;
  readonly workers: Client<typeof WorkerService>;
  private readonly opened = new Map<string, ClosableTransport>();

  constructor(options: CoxswainOptions = {}) {
    const addresses = addressesOf(options.address);
    const made = new Map(SERVICES.map((service) => [service, this.transportTo(addresses[service], options)]));
    const of = (service: Service): Transport => withIdentity(made.get(service) as Transport, options);
    const [auth, memory, models, orchestrator] = [of("auth"), of("memory"), of("models"), of("orchestrator")];
    this.auth = createClient(AuthService, auth);
    this.groups = createClient(GroupService, auth);
    this.secrets = createClient(SecretService, auth);
    this.serviceTokens = createClient(ServiceTokenService, auth);
    this.models = createClient(ModelService, models);
    this.inference = createClient(InferenceService, models);
    this.usage = createClient(UsageService, models);
    this.memory = createClient(MemoryService, memory);
    this.documents = createClient(DocumentService, memory);
    this.memoryBackends = createClient(MemoryBackendService, memory);
    this.vectorIndexes = createClient(VectorIndexService, memory);
    this.crews = createClient(CrewService, orchestrator);
    this.executions = createClient(ExecutionService, orchestrator);
    this.artifacts = createClient(ArtifactService, orchestrator);
    this.questions = createClient(QuestionService, orchestrator);
    this.batches = createClient(BatchService, orchestrator);
    this.schedules = createClient(ScheduleService, orchestrator);
    this.tools = createClient(ToolService, orchestrator);
    this.toolSources = createClient(ToolSourceService, orchestrator);
    this.webhooks = createClient(WebhookService, orchestrator);
    this.workers = createClient(WorkerService, orchestrator);
  }

  /** Ends the connections, and every call on them; those of `options.transport` are its maker's to end. */
  close(): void {
    for (const transport of this.opened.values()) {
      transport.close();
    }
  }

  /** Starts an execution of a stored crew, by its name, and returns it as it was stored. */
  async start(crewName: string, inputs: JsonObject = {}, options: StartOptions = {}): Promise<Execution> {
    const values = Object.entries(inputs).map(([name, value]) => [name, fromJson(ValueSchema, value)] as const);
    const { execution } = await this.executions.startExecution({
      crew: { case: "crewName", value: crewName },
      inputs: Object.fromEntries(values),
      ...options,
    });
    return present(execution);
  }

  /** Every event of an execution, once and in order, until it has ended; goes on over lost connections. */
  watch(executionId: string, options: WatchOptions = {}): AsyncGenerator<ExecutionEvent, void> {
    return watch(this.executions, executionId, options);
  }

  /**
   * What happens in all executions of the group, from now on or after a position; it does not end by itself. A response
   * without an event tells the position alone. Keep the `position` of the last one to continue in another process.
   */
  watchExecutions(options: WatchExecutionsOptions = {}): AsyncGenerator<WatchExecutionsResponse, never> {
    return watchExecutions(this.executions, options);
  }

  /** What people of the group are asked: all open questions, or what came after a sequence, then every change. */
  watchQuestions(options: WatchSequenceOptions = {}): AsyncGenerator<WatchQuestionsResponse, never> {
    return watchQuestions(this.questions, options);
  }

  /** The group's alerts that a share of a limit has been used, from now on or after a sequence. */
  watchBudgetAlerts(options: WatchSequenceOptions = {}): AsyncGenerator<WatchBudgetAlertsResponse, never> {
    return watchBudgetAlerts(this.usage, options);
  }

  /** Cancels an execution and returns it; watch it to see its end. */
  async cancel(executionId: string): Promise<Execution> {
    const { execution } = await this.executions.cancelExecution({ id: executionId });
    return present(execution);
  }

  /** Accepts what a question asks: as it is, or with content that follows the question's schema. */
  async accept(questionId: string, content?: JsonValue): Promise<Question> {
    const value = content === undefined ? {} : { content: fromJson(ValueSchema, content) };
    const { question } = await this.questions.answerQuestion({ id: questionId, answer: { case: "accept", value } });
    return present(question);
  }

  /** Declines what a question asks, with the reason that the execution goes on with. */
  async decline(questionId: string, reason = ""): Promise<Question> {
    const answer = { case: "decline" as const, value: { reason } };
    const { question } = await this.questions.answerQuestion({ id: questionId, answer });
    return present(question);
  }

  private transportTo(address: string, { caFile, transport }: CoxswainOptions): Transport {
    if (transport) {
      return transport(address);
    }
    let found = this.opened.get(address);
    if (!found) {
      const [, scheme, host] = /^(https?:\/\/)?(.*?)\/?$/.exec(address) ?? [];
      const encrypted = caFile !== undefined || scheme === "https://";
      const trusted = caFile === undefined ? null : readFileSync(caFile);
      const credentials = encrypted ? grpc.credentials.createSsl(trusted) : grpc.credentials.createInsecure();
      found = grpcTransport(host ?? address, credentials);
      this.opened.set(address, found);
    }
    return found;
  }
}

function present<T>(value: T | undefined): T {
  if (value === undefined) {
    throw new TypeError("the answer lacks what it is about");
  }
  return value;
}
