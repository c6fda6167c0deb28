export { Code } from "@connectrpc/connect";

export type { Addresses, Service } from "./addresses.js";
export type { Identity } from "./calls.js";
export { Coxswain } from "./client.js";
export type { CoxswainOptions, StartOptions } from "./client.js";
export { CoxswainError } from "./errors.js";
export type { FieldViolation } from "./errors.js";
export type { ReconnectOptions, WatchExecutionsOptions, WatchOptions, WatchSequenceOptions } from "./watching.js";
