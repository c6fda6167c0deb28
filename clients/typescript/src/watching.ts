/** A watch that survives lost connections: each event once and in order, until the execution has ended. */

import { setTimeout as sleep } from "node:timers/promises";

import type { Client } from "@connectrpc/connect";

import { CoxswainError } from "./errors.js";
import type { ExecutionEvent } from "./gen/coxswain/orchestrator/v1/execution_pb.js";
import { ExecutionState } from "./gen/coxswain/orchestrator/v1/execution_pb.js";
import type { ExecutionService } from "./gen/coxswain/orchestrator/v1/execution_service_pb.js";

/** From where to watch, and for how long to try. */
export interface WatchOptions {
  /** `sequence` of the last event already seen; 0n, the default, means from the beginning. */
  afterSequence?: bigint;
  /** Leaves out the chunks of models' answers. */
  excludeChunks?: boolean;
  /** Milliseconds without a connection after which the watch throws, 300,000 if left out. */
  maxOutageMs?: number;
  /** Ends the watch, which then throws CANCELLED. */
  signal?: AbortSignal;
}

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
const TERMINAL_EVENTS = new Set<string | undefined>(["executionSucceeded", "executionFailed", "executionCancelled"]);
const TERMINAL_STATES = new Set([ExecutionState.SUCCEEDED, ExecutionState.FAILED, ExecutionState.CANCELLED]);

export async function* watch(
  executions: Client<typeof ExecutionService>,
  id: string,
  { afterSequence = 0n, excludeChunks = false, maxOutageMs = 300_000, signal }: WatchOptions = {},
): AsyncGenerator<ExecutionEvent, void> {
  let sequence = afterSequence;
  let outageSince: number | undefined;
  let pauses = 0;
  const call = signal ? { signal } : {};
  for (;;) {
    let suggested = 0;
    try {
      for await (const { event } of executions.watchExecution({ id, afterSequence: sequence, excludeChunks }, call)) {
        [outageSince, pauses] = [undefined, 0];
        if (event === undefined || event.sequence <= sequence) {
          continue;
        }
        sequence = event.sequence;
        yield event;
        if (TERMINAL_EVENTS.has(event.event.case)) {
          return;
        }
      }
      const { execution } = await executions.getExecution({ id }, call);
      if (execution && TERMINAL_STATES.has(execution.state) && execution.lastSequence <= sequence) {
        return;
      }
    } catch (thrown) {
      const error = CoxswainError.from(thrown);
      outageSince ??= Date.now();
      if (signal?.aborted || !error.transient || Date.now() - outageSince > maxOutageMs) {
        throw error;
      }
      suggested = error.retryAfterMs ?? 0;
    }
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** pauses++, LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2);
    await sleep(Math.max(pause, suggested));
  }
}
