/** TLS: which servers a client trusts, and its own certificate. */

import { readFileSync } from "node:fs";

import { type ChannelCredentials, credentials } from "@grpc/grpc-js";

import { checkNames } from "./checks.js";
import { bufferOf } from "./photos.js";

/** A PEM file: its bytes, its path, or its file: URL. */
export type Pem = Uint8Array | string | URL;

/** Settings of TLS. */
export interface Tls {
  /** The certificates of the trusted authorities. Default: the authorities that Node trusts. */
  readonly ca?: Pem | undefined;
  /** The client's certificate with its chain, for servers that ask for one. */
  readonly certificate?: Pem | undefined;
  /** The private key of the certificate. */
  readonly key?: Pem | undefined;
  /** The name that the server's certificate must have. Default: the name in the address. */
  readonly serverName?: string | undefined;
}

/** Returns gRPC's credentials. Throws TypeError for a certificate without its key, and what reading a file throws. */
export function credentialsOf(tls: boolean | Tls): ChannelCredentials {
  if (tls === false) {
    return credentials.createInsecure();
  }
  const { ca, certificate, key } = tls === true ? {} : tls;
  checkNames(tls === true ? {} : tls, ["ca", "certificate", "key", "serverName"], "tls");
  if ((certificate === undefined) !== (key === undefined)) {
    throw new TypeError("certificate and key must be given together");
  }
  return credentials.createSsl(read(ca), read(key), read(certificate));
}

function read(pem: Pem | undefined): Buffer | null {
  if (pem === undefined) {
    return null;
  }
  return pem instanceof Uint8Array ? bufferOf(pem) : readFileSync(pem);
}
