/** What every call carries, and which ones are repeated: the same for all transports. */

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { create } from "@bufbuild/protobuf";
import type { DescMessage, DescMethod, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel as Idempotency } from "@bufbuild/protobuf/wkt";
import { reflect } from "@bufbuild/protobuf/reflect";
import type { Transport } from "@connectrpc/connect";

import { CoxswainError } from "./errors.js";

/** Who calls, and how long a call may take. */
export interface Identity {
  /** The bearer token, or a function that returns a fresh one for each call. */
  token?: string | (() => string | Promise<string>) | undefined;
  /** Id of the group to act in; members of one group may leave it out. */
  group?: string | undefined;
  /** Default deadline of a unary call in milliseconds, 30,000 if left out; calls of models have at least 600,000. */
  timeoutMs?: number | undefined;
}

const ATTEMPTS = 5;
const FIRST_PAUSE_MS = 100;
const INFERENCE_TIMEOUT_MS = 600_000;
const INFERENCE = "coxswain.models.v1.InferenceService";

/**
 * A transport whose calls carry identity, a deadline and a `request_id`, and throw CoxswainError. When the server is
 * unavailable or the connection is lost, unary calls that are safe to repeat are; streams are left to their reader.
 */
export function withIdentity(transport: Transport, identity: Identity): Transport {
  async function headers(given: HeadersInit | undefined): Promise<Headers> {
    const made = new Headers(given);
    const token = typeof identity.token === "function" ? await identity.token() : identity.token;
    if (token && !made.has("authorization")) {
      made.set("authorization", `Bearer ${token}`);
    }
    if (identity.group && !made.has("x-group-id")) {
      made.set("x-group-id", identity.group);
    }
    return made;
  }

  return {
    async unary(method, signal, timeoutMs, header, input) {
      const request = withRequestId(method.input, input);
      const timeout = timeoutMs ?? defaultTimeout(method, identity.timeoutMs ?? 30_000);
      for (let attempt = 1; ; attempt++) {
        try {
          return await transport.unary(method, signal, timeout, await headers(header), request);
        } catch (thrown) {
          const error = CoxswainError.from(thrown);
          if (!error.transient || !isRepeatable(method) || attempt === ATTEMPTS || signal?.aborted) {
            throw error;
          }
          await sleep(Math.max(error.retryAfterMs ?? 0, FIRST_PAUSE_MS * 2 ** attempt * (0.5 + Math.random() / 2)));
        }
      }
    },
    async stream(method, signal, timeoutMs, header, input) {
      try {
        const answer = await transport.stream(method, signal, timeoutMs, await headers(header), input);
        return { ...answer, message: typedErrors(answer.message) };
      } catch (thrown) {
        throw CoxswainError.from(thrown);
      }
    },
  };
}

async function* typedErrors<T>(messages: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (thrown) {
    throw CoxswainError.from(thrown);
  }
}

/** The request with a `request_id`: as given, or a new one where it has the field. It makes each repetition the same. */
function withRequestId<I extends DescMessage>(schema: I, input: MessageInitShape<I>): MessageShape<I> {
  const message = create(schema, input);
  const field = schema.fields.find(({ name }) => name === "request_id");
  if (field) {
    const reflected = reflect(schema, message);
    if (!reflected.isSet(field)) {
      reflected.set(field, randomUUID());
    }
  }
  return message;
}

function isRepeatable(method: DescMethod): boolean {
  return (
    method.idempotency !== Idempotency.IDEMPOTENCY_UNKNOWN || method.input.fields.some(({ name }) => name === "request_id")
  );
}

function defaultTimeout(method: DescMethod, timeoutMs: number): number {
  return method.parent.typeName === INFERENCE ? Math.max(timeoutMs, INFERENCE_TIMEOUT_MS) : timeoutMs;
}
