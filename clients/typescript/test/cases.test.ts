/** The table of cases that all clients share. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";

import * as mattebox from "../src/index.js";
import { Background, Client, type PhotoSource, type RawPhoto, type RemovalOptions } from "../src/index.js";
import { errorOf, places } from "./support.js";

type Words = Record<string, unknown>;

interface Case {
  readonly name: string;
  readonly options: Words;
  readonly photo?: { readonly encoded_base64?: string; readonly raw?: Words };
  readonly message: Words;
  readonly violations: readonly mattebox.FieldViolation[];
  readonly error: Words & { readonly type: string };
  readonly result: Words;
}

const SECTIONS = ["options", "invalid", "refused", "statuses", "results"] as const;

const table = JSON.parse(readFileSync(places.table, "utf8")) as Record<(typeof SECTIONS)[number], Case[]>;
const client = new Client(places.cases, { retries: 0 });
after(() => {
  client.close();
});

/** Turns Python's names into this language's, all the way down. */
function camel(value: unknown): unknown {
  if (Array.isArray(value) || typeof value !== "object" || value === null) {
    return value;
  }
  const named = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [named(name), camel(inner)]));
}

/** Turns this language's names into Python's, all the way down. */
function snake(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(snake);
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  const named = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [named(name), snake(inner)]));
}

function bytes(base64: unknown): Buffer {
  return Buffer.from(base64 as string, "base64");
}

function photoOf({ photo }: Case): PhotoSource {
  if (photo?.raw === undefined) {
    return bytes(photo?.encoded_base64 ?? "cGhvdG8=");
  }
  const { data_base64: data, ...raw } = photo.raw;
  return { ...(camel(raw) as Omit<RawPhoto, "data">), data: bytes(data) };
}

function backgroundOf(words: Words): Background {
  const [[kind, value] = ["", null]] = Object.entries(words);
  const makers: Record<string, () => Background> = {
    color: () => Background.color(...(value as [number, number, number])),
    blur: () => Background.blur(value as number),
    image_base64: () => Background.image(bytes(value)),
    transparent: () => Background.transparent(),
  };
  const make = makers[kind];
  assert.ok(make, `no background is made by ${kind}`);
  return make();
}

function optionsOf({ options }: Case): RemovalOptions {
  const { background, ...others } = options;
  const made = typeof background === "object" ? backgroundOf(background as Words) : background;
  return { ...(camel(others) as RemovalOptions), ...(made === undefined ? {} : { background: made as Background }) };
}

test("every section of the table is known", () => {
  const about = Object.keys(table).filter((name) => name !== "about");
  assert.deepEqual(about, SECTIONS);
});

for (const each of table.options) {
  test(`options: ${each.name}`, async () => {
    const { image } = await client.removeBackground(photoOf(each), optionsOf(each));
    assert.deepEqual(JSON.parse(image.toString()), each.message);
  });
}

for (const each of table.invalid) {
  test(`invalid: ${each.name}`, async () => {
    const error = await errorOf(client.removeBackground(photoOf(each), optionsOf(each)));
    assert.ok(error instanceof mattebox.InvalidRequest, String(error));
    assert.deepEqual(error.violations, each.violations);
    assert.equal(error.requestId, "");
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.equal(error.message, each.violations.map((found) => `${found.field}: ${found.description}`).join("; "));
  });
}

for (const each of table.refused) {
  test(`refused: ${each.name}`, async () => {
    const error = await errorOf(client.removeBackground(photoOf(each), optionsOf(each)));
    assert.ok(error instanceof mattebox.InvalidRequest, String(error));
    assert.deepEqual(error.violations, each.violations);
    assert.equal(error.requestId, "case-1");
  });
}

for (const each of table.statuses) {
  test(`statuses: ${each.name}`, async () => {
    const error = await errorOf(client.removeBackground(Buffer.from("photo"), { model: `status:${each.name}` }));
    const type = (mattebox as Words)[each.error.type] as new () => Error;
    assert.ok(error instanceof mattebox.MatteboxError && error instanceof type, String(error));
    const { name, code, message, violations, retryAfter, requestId } = error;
    const found = { type: name, code, message, violations, retry_after_s: retryAfter, request_id: requestId };
    assert.deepEqual(found, each.error);
  });
}

for (const each of table.results) {
  test(`results: ${each.name}`, async () => {
    const found = await client.removeBackground(Buffer.from("photo"), { model: `result:${each.name}` });
    const { image, alpha, timings, execution, ...others } = found;
    const { weightsSha256, ...ran } = execution;
    const expected = {
      ...(snake(JSON.parse(JSON.stringify(others))) as object), // without the functions
      execution: { ...(snake(ran) as object), weights_sha256: weightsSha256 },
      image_base64: image.toString("base64"),
      alpha_base64: alpha?.toString("base64") ?? null,
      timings_ms: timings,
    };
    assert.deepEqual(expected, each.result);
    assert.ok(Object.isFrozen(found) && Object.isFrozen(found.timings) && Object.isFrozen(found.execution));
  });
}
