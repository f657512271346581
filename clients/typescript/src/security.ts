/** How a client trusts its servers, and how it shows who it is. */

import { readFileSync } from "node:fs";

import { type ChannelCredentials, credentials } from "@grpc/grpc-js";

import { checkNames } from "./checks.js";
import { bufferOf } from "./photos.js";

/** PEM: its bytes, or the path or file: URL of a file. */
export type Pem = Uint8Array | string | URL;

/** TLS to servers. */
export interface Tls {
  /** Certificates of authorities that are trusted. Default: those that Node trusts. */
  readonly ca?: Pem | undefined;
  /** The client's own, with its chain, for servers that ask for one. */
  readonly certificate?: Pem | undefined;
  /** Of the certificate. */
  readonly key?: Pem | undefined;
  /** That the server's certificate must have, if it isn't the address's. */
  readonly serverName?: string | undefined;
}

/** gRPC's own. Throws TypeError for half a pair, what reading throws for a file that can't be read. */
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
