/** What the tests' starter (tests/client/test_typescript.py) tells: where the servers are, and the photo. */

import { readFileSync } from "node:fs";

import { Client } from "../src/index.js";

interface Place {
  readonly address: string;
  readonly pid: number;
}

interface Places {
  /** A real server, a second one that may be killed, one with small limits, and one with mutual TLS and a token. */
  readonly server: Place;
  readonly victim: Place;
  readonly strict: Place;
  readonly secure: Place & { ca: string; certificate: string; key: string; token: string };
  /** Plays the table of cases. */
  readonly cases: string;
  /** Two that never answer, and tell by `models` what they have seen. */
  readonly deaf: readonly [string, string];
  readonly table: string;
  readonly photo: string;
  readonly folder: string;
}

const path = process.env["MATTEBOX_TEST_PLACES"];
if (path === undefined) {
  throw new Error("run by tests/client/test_typescript.py");
}

export const places = JSON.parse(readFileSync(path, "utf8")) as Places;
export const photo: Buffer = readFileSync(places.photo);

/** Calls as many as the deaf server has seen. */
export interface Seen {
  readonly begun: number;
  readonly cancelled: number;
}

/** What a deaf server has seen so far. */
export async function seen(address: string): Promise<Seen> {
  const client = new Client(address);
  try {
    return JSON.parse((await client.models()).default) as Seen;
  } finally {
    client.close();
  }
}

/** Waits for something, and fails after a time that nothing here needs. */
export async function until(fine: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + 30_000;
  while (!(await fine())) {
    if (Date.now() > end) {
      throw new Error("it never happened");
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** What a call throws. */
export async function errorOf(call: Promise<unknown>): Promise<unknown> {
  try {
    await call;
  } catch (error) {
    return error;
  }
  throw new Error("it threw nothing");
}
