/** The servers and the photo of the tests, which tests/client/test_typescript.py starts and writes. */

import { readFileSync } from "node:fs";

import { Client } from "../src/index.js";

interface Place {
  readonly address: string;
  readonly pid: number;
}

interface Places {
  /** A real server, one that a test kills, one with small limits, and one with mutual TLS and a token. */
  readonly server: Place;
  readonly victim: Place;
  readonly strict: Place;
  readonly secure: Place & { ca: string; certificate: string; key: string; token: string };
  /** A server that answers as the table of cases says. */
  readonly cases: string;
  /** Two servers that never answer a photo, and whose `models` hold the numbers of their calls. */
  readonly deaf: readonly [string, string];
  readonly table: string;
  readonly photo: string;
  readonly folder: string;
}

const path = process.env["MATTEBOX_TEST_PLACES"];
if (path === undefined) {
  throw new Error("tests/client/test_typescript.py runs these tests");
}

export const places = JSON.parse(readFileSync(path, "utf8")) as Places;
export const photo: Buffer = readFileSync(places.photo);

/** The numbers of calls that a deaf server has seen. */
export interface Seen {
  readonly begun: number;
  readonly cancelled: number;
}

/** Asks a deaf server for the numbers of its calls. */
export async function seen(address: string): Promise<Seen> {
  const client = new Client(address);
  try {
    return JSON.parse((await client.models()).default) as Seen;
  } finally {
    client.close();
  }
}

/** Waits for a condition; throws after 30 seconds. */
export async function until(fine: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + 30_000;
  while (!(await fine())) {
    if (Date.now() > end) {
      throw new Error("the condition never came true");
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Returns what a call throws. Throws if the call succeeds. */
export async function errorOf(call: Promise<unknown>): Promise<unknown> {
  try {
    await call;
  } catch (error) {
    return error;
  }
  throw new Error("it threw nothing");
}
