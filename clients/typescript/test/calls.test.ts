/** One photo at a time, against a real server. */

import assert from "node:assert/strict";
import { createReadStream, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";

import { Background, Client, InvalidRequest, type PhotoSource, type RemovalOptions } from "../src/index.js";
import { errorOf, photo, places } from "./support.js";

const client = new Client(places.server.address);
after(() => {
  client.close();
});

test("sources of photos", async () => {
  const expected = (await client.removeBackground(photo)).image;
  const sources: [string, PhotoSource][] = [
    ["Uint8Array", new Uint8Array(photo)],
    ["part of a larger array", new Uint8Array([0, ...photo, 0]).subarray(1, photo.length + 1)],
    ["path", places.photo],
    ["URL", pathToFileURL(places.photo)],
    ["Blob", new Blob([new Uint8Array(photo)])],
    ["Readable", createReadStream(places.photo, { highWaterMark: 100 })],
    ["ReadableStream", new Blob([new Uint8Array(photo)]).stream()],
  ];
  for (const [name, source] of sources) {
    assert.deepEqual((await client.removeBackground(source)).image, expected, name);
  }
});

test("a raw photo, and raw pixels back", async () => {
  const raw = { data: Buffer.alloc(64 * 64 * 3, 200), width: 64, height: 64 };
  const result = await client.removeBackground(raw, { background: "transparent", output: { format: "raw" } });
  assert.deepEqual([result.width, result.height, result.pixelFormat], [64, 64, "rgba"]);
  assert.equal(result.image.length, 64 * 64 * 4);
});

test("wrong sources", async () => {
  const wrong = async (source: unknown): Promise<unknown> => await errorOf(client.removeBackground(source as string));
  assert.match(String(await wrong("/nowhere.png")), /ENOENT/);
  assert.match(String(await wrong(5)), /TypeError: expected bytes.*not number/);
  assert.match(String(await wrong("")), /RangeError: the path is empty/);
  assert.match(String(await wrong({ data: 10 ** 12, width: 5, height: 5 })), /TypeError: photo.data.*not number/);
  const text = createReadStream(places.photo, { encoding: "latin1" });
  assert.match(String(await wrong(text)), /TypeError: the stream gave string, not bytes/);
});

test("what is no option is refused", async () => {
  const wrong = async (options: unknown): Promise<string> =>
    String(await errorOf(client.removeBackground(photo, options as RemovalOptions)));
  assert.match(await wrong({ bakground: "red" }), /TypeError: removeBackground has no option 'bakground'/);
  assert.match(await wrong({ output: { qualty: 3 } }), /TypeError: output has no option 'qualty'/);
  assert.match(await wrong({ output: "png" }), /TypeError: output must be an object/);
  assert.match(await wrong({ matte: { kernel: 3 } }), /TypeError: matte has no option 'kernel'/);
  assert.match(await wrong({ output: { format: "jpeg", quality: 1.5 } }), /TypeError: output.quality must be a whole/);
  assert.match(await wrong({ output: { alphaOnly: "yes" } }), /TypeError: output.alphaOnly must be true or false/);
  assert.match(await wrong({ background: { kind: "colour" } }), /TypeError: background must be/);
  assert.match(await wrong({ background: Background.image(7 as unknown as string) }), /TypeError: expected bytes/);
  assert.match(await wrong({ model: 7 }), /TypeError: model must be a string/);
  assert.match(await wrong({ keep: [7] }), /TypeError: keep must be a string/);
  assert.match(await wrong({ timeout: NaN }), /TypeError: timeout must be a number of seconds/);
});

test("backgrounds that are files", async () => {
  const expected = (await client.removeBackground(photo, { background: Background.image(photo) })).image;
  for (const background of [places.photo, pathToFileURL(places.photo), Background.image(places.photo)]) {
    assert.deepEqual((await client.removeBackground(photo, { background })).image, expected);
  }
  assert.match(String(await errorOf(client.removeBackground(photo, { background: "nowhere.jpg" }))), /ENOENT/);
});

test("what only the server can find", async () => {
  const error = await errorOf(client.removeBackground(Buffer.from("no photo")));
  assert.ok(error instanceof InvalidRequest);
  assert.deepEqual(error.violations.map(({ field }) => field), ["encoded"]);
  assert.equal(error.requestId.length, 32);
});

test("a result", async () => {
  const output = { format: "jpeg", quality: 85, size: 64, includeAlpha: true } as const;
  const result = await client.removeBackground(photo, { output, matte: "gaussian", background: "#ff8800" });
  assert.equal(Math.max(result.width, result.height), 64);
  assert.equal(result.format, "jpeg");
  assert.equal(result.alpha?.toString("latin1", 1, 4), "PNG");
  assert.equal(result.execution.provider, "cpu");
  assert.ok(result.timings.total > 0 && result.timings.infer > 0);
  assert.equal(result.requestId.length, 32);
  assert.throws(() => ((result as { width: number }).width = 3), TypeError);
  const path = join(places.folder, "saved.jpg");
  await result.save(path);
  assert.deepEqual(readFileSync(path), result.image);
});

test("models", async () => {
  const { models, default: name, limits } = await client.models();
  assert.equal(name, "colour");
  assert.deepEqual(models.map((model) => model.kind), ["semantic", "saliency"]);
  assert.deepEqual(models[0]?.input, { policy: "short_side", shortSide: 64, maxLongSide: 256 });
  assert.deepEqual(models[1]?.input, { policy: "letterbox", width: 80, height: 80 });
  assert.ok(limits.maxMessageBytes > limits.maxPhotoBytes);
});

test("ready, and closed", async () => {
  const other = new Client([places.server.address]);
  await other.waitUntilReady({ timeout: 20 });
  assert.equal(await other.ready(), true);
  assert.equal(await other.ready({ timeout: Infinity }), true);
  assert.equal((await other.removeBackground(photo, { timeout: null })).format, "png");
  await other[Symbol.asyncDispose]();
  other.close();
  assert.match(String(await errorOf(other.removeBackground(photo))), /the client is closed/);
});
