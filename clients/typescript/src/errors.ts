/** What a failed call throws: the status code, and everything the server said about it. */

import { ConnectError, Code } from "@connectrpc/connect";

import { BadRequestSchema, ErrorInfoSchema, RequestInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** One field that broke a rule. */
export interface FieldViolation {
  /** Path of the field in the request. Example: `spec.tasks[1].agent`. */
  field: string;
  /** What is wrong, and what is allowed instead. */
  description: string;
}

// What a broken connection looks like when no server explained it.
const TRANSPORT_CODES = new Set([Code.Internal, Code.Unknown, Code.Canceled, Code.Aborted]);

/** A call that failed. */
export class CoxswainError extends Error {
  /** The status code of gRPC. */
  readonly code: Code;
  /** Name of an ErrorReason, such as `NOT_FOUND`; empty when no server answered (a lost connection, a deadline). */
  readonly reason: string;
  /** What the reason is about: resource, id, model and so on. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The fields at fault, of a call that was INVALID_ARGUMENT. */
  readonly violations: readonly FieldViolation[];
  /** After how many milliseconds the server suggests to try again. */
  readonly retryAfterMs: number | undefined;
  /** The id under which the servers logged the call. */
  readonly requestId: string;

  constructor(cause: ConnectError) {
    super(cause.rawMessage, { cause });
    this.name = "CoxswainError";
    this.code = cause.code;
    const info = cause.findDetails(ErrorInfoSchema)[0];
    this.reason = info?.reason ?? "";
    this.metadata = info?.metadata ?? {};
    this.violations = cause
      .findDetails(BadRequestSchema)
      .flatMap((detail) => detail.fieldViolations.map(({ field, description }) => ({ field, description })));
    const delay = cause.findDetails(RetryInfoSchema)[0]?.retryDelay;
    this.retryAfterMs = delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6;
    this.requestId = cause.findDetails(RequestInfoSchema)[0]?.requestId ?? "";
  }

  /** Whether the server was unavailable or the connection was lost, so that another attempt may succeed. */
  get transient(): boolean {
    return this.code === Code.Unavailable || (this.reason === "" && TRANSPORT_CODES.has(this.code));
  }

  /** The typed error of whatever a transport throws. */
  static from(error: unknown): CoxswainError {
    return error instanceof CoxswainError ? error : new CoxswainError(ConnectError.from(error));
  }
}
