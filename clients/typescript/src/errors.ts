/**
 * What a call can throw.
 *
 * ```
 * MatteboxError
 * ├── InvalidRequest           an option or the photo is wrong; `violations` says which field, and why
 * │   └── MessageTooLarge      the message is over the server's or the client's limit
 * ├── UnknownModel             the server has no model of that name
 * ├── Unauthenticated          missing or wrong token
 * ├── DeadlineExceeded         the timeout passed
 * ├── Cancelled                the call was cancelled
 * ├── Overloaded               the server is at its limit; `retryAfter` says when to try again
 * ├── Unavailable              no server there, or it starts or drains
 * ├── NotImplementedByServer   the server is older than the call
 * └── ServerError              anything else that the server answers
 *     └── InternalError        a fault of the server; its log has it under `requestId`
 * ```
 *
 * What needs no server to tell is thrown before anything is sent: `InvalidRequest`, in the server's words; Node's own
 * errors for a file that can't be read; `TypeError` and `RangeError` for what is no option at all.
 */

/** One field of the request that is wrong. */
export interface FieldViolation {
  /** Its path in the request message, such as `output.quality`. */
  readonly field: string;
  /** What is wrong with it. */
  readonly description: string;
}

/** What an error knows beside its message. */
export interface ErrorDetails {
  readonly code?: string;
  readonly violations?: readonly FieldViolation[];
  readonly retryAfter?: number | null;
  readonly requestId?: string;
  readonly cause?: unknown;
}

/** Root of all errors of a call. */
export class MatteboxError extends Error {
  /** GRPC status code by name, such as "INVALID_ARGUMENT". */
  readonly code: string;
  /** The fields that are wrong, if the server named any. */
  readonly violations: readonly FieldViolation[];
  /** Seconds to wait before the same call may succeed, if the server said so. */
  readonly retryAfter: number | null;
  /** Under which the server's log has the call, if it got there; else "". */
  readonly requestId: string;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, "cause" in details ? { cause: details.cause } : undefined);
    this.name = new.target.name;
    this.code = details.code ?? "UNKNOWN";
    this.violations = details.violations ?? [];
    this.retryAfter = details.retryAfter ?? null;
    this.requestId = details.requestId ?? "";
  }
}

/** An option or the photo is wrong. Without a `requestId` it was found before anything was sent. */
export class InvalidRequest extends MatteboxError {
  /** Found by the client: fields and what is wrong with them. */
  static of(violations: readonly FieldViolation[]): InvalidRequest {
    const text = violations.map(({ field, description }) => `${field}: ${description}`).join("; ");
    return new InvalidRequest(text, { code: "INVALID_ARGUMENT", violations });
  }
}

/** The request or the answer is over a message limit. */
export class MessageTooLarge extends InvalidRequest {}

/** The server has no model of that name. */
export class UnknownModel extends MatteboxError {}

/** Missing or wrong token. */
export class Unauthenticated extends MatteboxError {}

/** The timeout passed. */
export class DeadlineExceeded extends MatteboxError {}

/** The call was cancelled; `cause` is the signal's reason if a signal did it. */
export class Cancelled extends MatteboxError {}

/** The server is at its limit now. */
export class Overloaded extends MatteboxError {}

/** No server there, or it starts or drains. */
export class Unavailable extends MatteboxError {}

/** The server is older than the call. */
export class NotImplementedByServer extends MatteboxError {}

/** Anything else that the server answers. */
export class ServerError extends MatteboxError {}

/** A fault of the server. */
export class InternalError extends ServerError {}
