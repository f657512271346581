/** The constructor's options, checked, and what gRPC makes of them. */

import { type ChannelCredentials, type ChannelOptions, Metadata } from "@grpc/grpc-js";

import { checkBoolean, checkNames, checkWhole } from "./checks.js";
import { credentialsOf, type Tls } from "./security.js";
import { isLocal, isSeveral, targetOf } from "./targets.js";

export const DEFAULT_ADDRESS = "127.0.0.1:50051";
const DEFAULT_MAX_MESSAGE_BYTES = 256 * 1024 * 1024;
const DEFAULT_KEEPALIVE_S = 30;
const LEAST_KEEPALIVE_S = 10; // servers close connections that are tested more often
const MOST_KEEPALIVE_S = 1e6;
const KEEPALIVE_TIMEOUT_MS = 10_000;
const MAX_RETRIES = 4; // gRPC makes at most five attempts
const SERVICE = "mattebox.v1.BackgroundRemovalService";
// gRPC's budget of retries: a failed attempt takes a token, an answer gives half a token back, and below half of the
// tokens nothing is repeated, so that many clients don't make an outage worse.
const RETRY_BUDGET = { maxTokens: 100, tokenRatio: 0.5 };

/** How servers are reached. */
export interface ConnectionOptions {
  /** True to trust Node's authorities, or a `Tls`. Default: false, no encryption. */
  readonly tls?: boolean | Tls | undefined;
  /** The token that the server asks for, sent with every call. */
  readonly token?: string | null | undefined;
  /**
   * Further attempts within the timeout, 0 to 4 (default), of a call that no server took: the first after 0.1 s, each
   * next one after twice as long up to 3 s, or when the server asks for it; none while most calls fail.
   */
  readonly retries?: number | undefined;
  /** Largest request and largest answer in bytes. Default: 256 MiB. */
  readonly maxMessageBytes?: number | undefined;
  /** Whether the token may be sent without TLS to other machines. Default: false. */
  readonly allowInsecure?: boolean | undefined;
  /** Seconds of silence in a call, 10 or more, after which the connection is tested; null for never. Default: 30. */
  readonly keepalive?: number | null | undefined;
}

const NAMES = ["tls", "token", "retries", "maxMessageBytes", "allowInsecure", "keepalive"];

/** The arguments of a gRPC client. */
export interface Connection {
  readonly target: string;
  readonly credentials: ChannelCredentials;
  readonly options: ChannelOptions;
  /** The metadata of every call. */
  readonly metadata: Metadata;
  /** The number of further attempts of a call. */
  readonly retries: number;
}

/** Returns gRPC's arguments. Throws RangeError and TypeError for a wrong option, and what reading a file throws. */
export function connectionOf(address: string | readonly string[], options: ConnectionOptions): Connection {
  checkNames(options, NAMES, "Client");
  const { tls = false, token = null, retries = MAX_RETRIES, allowInsecure = false } = options;
  const { maxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES, keepalive = DEFAULT_KEEPALIVE_S } = options;
  checkBoolean(allowInsecure, "allowInsecure");
  checkNumbers(maxMessageBytes, retries, keepalive);
  const target = targetOf(address);
  const metadata = new Metadata();
  if (token !== null) {
    checkToken(token, tls !== false || allowInsecure || isLocal(target), target);
    metadata.set("authorization", `Bearer ${token}`);
  }
  const channel: ChannelOptions = {
    ...limits(maxMessageBytes),
    "grpc.service_config": JSON.stringify(serviceConfig(retries, isSeveral(target))),
    ...(keepalive === null ? {} : keepaliveOptions(keepalive)),
    ...(typeof tls === "object" && tls.serverName !== undefined
      ? { "grpc.ssl_target_name_override": tls.serverName }
      : {}),
  };
  return { target, credentials: credentialsOf(tls), options: channel, metadata, retries };
}

function checkNumbers(maxMessageBytes: number, retries: number, keepalive: number | null): void {
  checkWhole(maxMessageBytes, "maxMessageBytes");
  checkWhole(retries, "retries");
  if (maxMessageBytes < 1) {
    throw new RangeError(`maxMessageBytes must be 1 or more, not ${maxMessageBytes}`);
  }
  if (keepalive !== null && !(keepalive >= LEAST_KEEPALIVE_S && keepalive < MOST_KEEPALIVE_S)) {
    throw new RangeError(`keepalive must be ${LEAST_KEEPALIVE_S} seconds or more, or null, not ${keepalive}`);
  }
  if (retries < 0 || retries > MAX_RETRIES) {
    throw new RangeError(`retries must be 0 to ${MAX_RETRIES}, not ${retries}`);
  }
}

function checkToken(token: string, safe: boolean, target: string): void {
  if (typeof token !== "string" || !/^[\x20-\x7e]+$/.test(token)) {
    throw new RangeError("token must be printable ASCII, and not empty");
  }
  if (!safe) {
    throw new RangeError(`the token would go to ${target} in the clear: use tls, or allowInsecure: true`);
  }
}

/** Raises gRPC's limit of 4 MiB, which is below a photo, and keeps whole messages so that gRPC can repeat them. */
function limits(maxMessageBytes: number): ChannelOptions {
  return {
    "grpc.max_receive_message_length": maxMessageBytes,
    "grpc.max_send_message_length": maxMessageBytes,
    "grpc.per_rpc_retry_buffer_size": maxMessageBytes,
    "grpc.retry_buffer_size": Number.MAX_SAFE_INTEGER, // for all calls together, whose number the caller chooses
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 3000, // gRPC's default would notice a restarted server after up to two minutes
  };
}

function keepaliveOptions(keepaliveS: number): ChannelOptions {
  return { "grpc.keepalive_time_ms": keepaliveS * 1000, "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS };
}

function serviceConfig(retries: number, several: boolean): object {
  const retryPolicy = {
    maxAttempts: retries + 1,
    initialBackoff: "0.1s",
    maxBackoff: "3s",
    backoffMultiplier: 2,
    retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
  };
  const method = { name: [{ service: SERVICE }], ...(retries > 0 ? { retryPolicy } : {}) };
  return {
    methodConfig: [method],
    ...(retries > 0 ? { retryThrottling: RETRY_BUDGET } : {}),
    // Reachable servers are used in turn. grpc-js can't ask a server for its health, so a retry leaves one that drains.
    loadBalancingConfig: several ? [{ round_robin: {} }] : [{ pick_first: {} }],
  };
}
