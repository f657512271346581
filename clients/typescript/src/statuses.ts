/** Turns gRPC's statuses into the errors of this package. */

import { type Metadata, type ServiceError, status } from "@grpc/grpc-js";

import {
  Cancelled,
  DeadlineExceeded,
  type ErrorDetails,
  type FieldViolation,
  InternalError,
  InvalidRequest,
  MatteboxError,
  MessageTooLarge,
  NotImplementedByServer,
  Overloaded,
  ServerError,
  Unauthenticated,
  Unavailable,
  UnknownModel,
} from "./errors.js";
import type { Any } from "./gen/google/protobuf/any.js";
import type { Duration } from "./gen/google/protobuf/duration.js";
import { BadRequest, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";

const REQUEST_ID_KEY = "x-request-id";
const DETAILS_KEY = "grpc-status-details-bin";
const BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest";
const RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo";
// gRPC reports a message over the limit with the code of an overload, but without a time after which to retry. The
// second text is that of grpc-js for a message that it refuses to send.
const TOO_LARGE = /message larger than max|message with a size larger than/;

type ErrorType = new (message: string, details: ErrorDetails) => MatteboxError;

const TYPES: ReadonlyMap<status, ErrorType> = new Map<status, ErrorType>([
  [status.INVALID_ARGUMENT, InvalidRequest],
  [status.NOT_FOUND, UnknownModel],
  [status.UNAUTHENTICATED, Unauthenticated],
  [status.DEADLINE_EXCEEDED, DeadlineExceeded],
  [status.CANCELLED, Cancelled],
  [status.RESOURCE_EXHAUSTED, Overloaded],
  [status.UNAVAILABLE, Unavailable],
  [status.UNIMPLEMENTED, NotImplementedByServer],
  [status.INTERNAL, InternalError],
]);

/** Makes the error of a failed call from its status and the `google.rpc` details in its trailing metadata. */
export function fromStatus(error: ServiceError, initial: Metadata | null): MatteboxError {
  const violations: FieldViolation[] = [];
  let retryAfter: number | null = null;
  for (const detail of detailsOf(error.metadata)) {
    if (detail.typeUrl === BAD_REQUEST) {
      const found = BadRequest.decode(detail.value).fieldViolations;
      violations.push(...found.map(({ field, description }) => ({ field, description })));
    } else if (detail.typeUrl === RETRY_INFO) {
      retryAfter = millisecondsOf(RetryInfo.decode(detail.value).retryDelay) / 1000;
    }
  }
  const tooLarge = error.code === status.RESOURCE_EXHAUSTED && retryAfter === null && TOO_LARGE.test(error.details);
  const type = tooLarge ? MessageTooLarge : (TYPES.get(error.code) ?? ServerError);
  const code = status[error.code];
  const requestId = requestIdOf(initial) || requestIdOf(error.metadata);
  return new type(error.details || code, { code, violations, retryAfter, requestId, cause: error });
}

/** Returns a call's id in the server's log, from an answer's initial metadata or an error's trailing metadata. */
export function requestIdOf(metadata: Metadata | null): string {
  return String(metadata?.get(REQUEST_ID_KEY)[0] ?? "");
}

/** Returns the milliseconds of a duration; 0 for none. */
export function millisecondsOf(duration: Duration | undefined): number {
  return duration === undefined ? 0 : duration.seconds * 1000 + duration.nanos / 1e6;
}

function detailsOf(trailing: Metadata): Any[] {
  const found = trailing.get(DETAILS_KEY)[0];
  return Buffer.isBuffer(found) ? Status.decode(found).details : [];
}
