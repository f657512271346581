/**
 * The errors of a call.
 *
 * ```
 * MatteboxError
 * ├── InvalidRequest           an option or the photo is wrong; `violations` names the fields and the reasons
 * │   └── MessageTooLarge      the message is larger than the server or the client allows
 * ├── UnknownModel             the server has no model of that name
 * ├── Unauthenticated          the token is missing or wrong
 * ├── DeadlineExceeded         the timeout passed
 * ├── Cancelled                the call was cancelled
 * ├── Overloaded               the server is at its limit; `retryAfter` says when to try again
 * ├── Unavailable              no server answers, or it starts or drains
 * ├── NotImplementedByServer   the server is older than the call
 * └── ServerError              any other status
 *     └── InternalError        a fault of the server; its log names the cause under `requestId`
 * ```
 *
 * Four kinds of errors are thrown before anything is sent: `InvalidRequest` for options that a message can't express,
 * Node's own errors for a file that can't be read, `TypeError` for a wrong type or name, and `RangeError` for an
 * argument that is wrong in itself. The server finds everything else.
 */

/** One field of the request that is wrong. */
export interface FieldViolation {
  /** The field's path in the request message, such as `output.quality`. */
  readonly field: string;
  /** What is wrong with the field. */
  readonly description: string;
}

/** What an error has beside its message. */
export interface ErrorDetails {
  readonly code?: string;
  readonly violations?: readonly FieldViolation[];
  readonly retryAfter?: number | null;
  readonly requestId?: string;
  readonly cause?: unknown;
}

/** The base class of all errors of a call. */
export class MatteboxError extends Error {
  /** The gRPC status code by name, such as "INVALID_ARGUMENT". */
  readonly code: string;
  /** The fields that are wrong; empty where none was named. */
  readonly violations: readonly FieldViolation[];
  /** Seconds after which the same call may succeed; null where the server named none. */
  readonly retryAfter: number | null;
  /** The call's id in the server's log; "" for a call that reached no server. */
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

/** An option or the photo is wrong. Without a `requestId` the client found it before anything was sent. */
export class InvalidRequest extends MatteboxError {
  /** Makes the error for what the client found. */
  static of(violations: readonly FieldViolation[]): InvalidRequest {
    const text = violations.map(({ field, description }) => `${field}: ${description}`).join("; ");
    return new InvalidRequest(text, { code: "INVALID_ARGUMENT", violations });
  }
}

/** The request or the answer is larger than the server or the client allows. */
export class MessageTooLarge extends InvalidRequest {}

/** The server has no model of that name. */
export class UnknownModel extends MatteboxError {}

/** The token is missing or wrong. */
export class Unauthenticated extends MatteboxError {}

/** The timeout passed. */
export class DeadlineExceeded extends MatteboxError {}

/** The call was cancelled; `cause` is the signal's reason if a signal cancelled it. */
export class Cancelled extends MatteboxError {}

/** The server is at its limit now. */
export class Overloaded extends MatteboxError {}

/** No server answers, or it starts or drains. */
export class Unavailable extends MatteboxError {}

/** The server is older than the call. */
export class NotImplementedByServer extends MatteboxError {}

/** Any other status. */
export class ServerError extends MatteboxError {}

/** A fault of the server. */
export class InternalError extends ServerError {}
