/** Watches that survive lost connections: each event once and in order. */

import { setTimeout as sleep } from "node:timers/promises";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions, Client } from "@connectrpc/connect";

import { CoxswainError } from "./errors.js";
import type { WatchBudgetAlertsRequestSchema, WatchBudgetAlertsResponse } from "./gen/coxswain/models/v1/usage_pb.js";
import type { UsageService } from "./gen/coxswain/models/v1/usage_service_pb.js";
import type {
  ExecutionEvent,
  WatchExecutionsRequestSchema,
  WatchExecutionsResponse,
} from "./gen/coxswain/orchestrator/v1/execution_pb.js";
import { ExecutionState } from "./gen/coxswain/orchestrator/v1/execution_pb.js";
import type { ExecutionService } from "./gen/coxswain/orchestrator/v1/execution_service_pb.js";
import type { WatchQuestionsRequestSchema, WatchQuestionsResponse } from "./gen/coxswain/orchestrator/v1/question_pb.js";
import type { QuestionService } from "./gen/coxswain/orchestrator/v1/question_service_pb.js";

/** For how long to watch. */
export interface ReconnectOptions {
  /** Milliseconds without a connection after which the watch throws, 300,000 if left out. */
  maxOutageMs?: number | undefined;
  /** Ends the watch, which then throws CANCELLED. */
  signal?: AbortSignal | undefined;
}

/** From where to watch an execution, and for how long. */
export interface WatchOptions extends ReconnectOptions {
  /** `sequence` of the last event already seen; 0n, the default, means from the beginning. */
  afterSequence?: bigint;
  /** Leaves out the chunks of models' answers. */
  excludeChunks?: boolean;
}

/** What to watch of a group's executions: the fields of WatchExecutionsRequest. */
export type WatchExecutionsOptions = ReconnectOptions & Omit<MessageInitShape<typeof WatchExecutionsRequestSchema>, "$typeName">;

/** From where to watch a group's questions or alerts, and for how long. */
export interface WatchSequenceOptions extends ReconnectOptions {
  /** `sequence` of the last response already seen. */
  afterSequence?: bigint;
}

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
// A connection that stood this long worked, though it may have brought nothing: what comes after it is a new outage.
const STEADY_MS = 10_000;
const TERMINAL_EVENTS = new Set<string | undefined>(["executionSucceeded", "executionFailed", "executionCancelled"]);
const TERMINAL_STATES = new Set([ExecutionState.SUCCEEDED, ExecutionState.FAILED, ExecutionState.CANCELLED]);

/** Decides whether, and after which pause, a watch connects again. */
class Reconnection {
  private readonly call: CallOptions;
  private connectedAt = Date.now();
  private outageSince: number | undefined;
  private pauses = 0;
  private readonly maxOutageMs: number;

  constructor({ maxOutageMs = 300_000, signal }: ReconnectOptions) {
    this.maxOutageMs = maxOutageMs;
    this.call = signal ? { signal } : {};
  }

  /** Notes that a connection is being made, and returns its options. */
  connects(): CallOptions {
    this.connectedAt = Date.now();
    return this.call;
  }

  /** Notes that the connection brought something. */
  works(): void {
    [this.outageSince, this.pauses] = [undefined, 0];
  }

  /** Waits until the next attempt; throws what none can help against, or what has lasted too long. */
  async afterFailure(thrown: unknown): Promise<void> {
    const error = CoxswainError.from(thrown);
    if (Date.now() - this.connectedAt > STEADY_MS) {
      this.works();
    }
    this.outageSince ??= Date.now();
    // Once: the next connection has a fresh token, or there is none.
    const mayPass = error.transient || (error.reason === "CREDENTIAL_EXPIRED" && this.pauses === 0);
    if (this.call.signal?.aborted || !mayPass || Date.now() - this.outageSince > this.maxOutageMs) {
      throw error;
    }
    await this.pause(error.retryAfterMs);
  }

  async pause(suggestedMs = 0): Promise<void> {
    const longest = Math.min(FIRST_PAUSE_MS * 2 ** this.pauses++, LONGEST_PAUSE_MS);
    const { signal } = this.call;
    // Once it is aborted, the next attempt throws CANCELLED.
    await sleep(Math.max(longest * (0.5 + Math.random() / 2), suggestedMs), undefined, signal && { signal }).catch(() => undefined);
  }
}

export async function* watch(
  executions: Client<typeof ExecutionService>,
  id: string,
  { afterSequence = 0n, excludeChunks = false, ...options }: WatchOptions,
): AsyncGenerator<ExecutionEvent, void> {
  const connection = new Reconnection(options);
  let sequence = afterSequence;
  for (;;) {
    try {
      const request = { id, afterSequence: sequence, excludeChunks };
      for await (const { event } of executions.watchExecution(request, connection.connects())) {
        connection.works();
        if (event === undefined || event.sequence <= sequence) {
          continue;
        }
        sequence = event.sequence;
        yield event;
        if (TERMINAL_EVENTS.has(event.event.case)) {
          return;
        }
      }
      const { execution } = await executions.getExecution({ id }, connection.connects());
      if (execution && TERMINAL_STATES.has(execution.state) && execution.lastSequence <= sequence) {
        return;
      }
      await connection.pause();
    } catch (thrown) {
      await connection.afterFailure(thrown);
    }
  }
}

export function watchExecutions(
  executions: Client<typeof ExecutionService>,
  { maxOutageMs, signal, ...request }: WatchExecutionsOptions,
): AsyncGenerator<WatchExecutionsResponse, never> {
  const next = { ...request };
  return follow(
    { maxOutageMs, signal },
    (call) => executions.watchExecutions(next, call),
    ({ position }) => { next.afterPosition = position; },
  );
}

export function watchQuestions(
  questions: Client<typeof QuestionService>,
  { maxOutageMs, signal, ...request }: WatchSequenceOptions,
): AsyncGenerator<WatchQuestionsResponse, never> {
  const next: MessageInitShape<typeof WatchQuestionsRequestSchema> = { ...request };
  return follow(
    { maxOutageMs, signal },
    (call) => questions.watchQuestions(next, call),
    ({ sequence }) => { next.afterSequence = sequence; },
  );
}

export function watchBudgetAlerts(
  usage: Client<typeof UsageService>,
  { maxOutageMs, signal, ...request }: WatchSequenceOptions,
): AsyncGenerator<WatchBudgetAlertsResponse, never> {
  const next: MessageInitShape<typeof WatchBudgetAlertsRequestSchema> = { ...request };
  return follow(
    { maxOutageMs, signal },
    (call) => usage.watchBudgetAlerts(next, call),
    ({ sequence }) => { next.afterSequence = sequence; },
  );
}

/** A stream of a group, which never ends by itself: `accept` keeps where the next connection goes on. */
async function* follow<T>(
  options: ReconnectOptions,
  connect: (call: CallOptions) => AsyncIterable<T>,
  accept: (response: T) => void,
): AsyncGenerator<T, never> {
  const connection = new Reconnection(options);
  for (;;) {
    try {
      for await (const response of connect(connection.connects())) {
        connection.works();
        accept(response);
        yield response;
      }
      await connection.pause();
    } catch (thrown) {
      await connection.afterFailure(thrown);
    }
  }
}
