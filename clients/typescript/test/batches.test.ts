/** Batches of photos. */

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { Batch } from "../src/batches.js";
import {
  type BatchResult,
  Cancelled,
  Client,
  InvalidRequest,
  type NamedPhoto,
  type Photos,
  type PhotoSource,
  type RemovalResult,
} from "../src/index.js";
import { errorOf, photo, places, seen, until } from "./support.js";

const client = new Client(places.server.address);
after(() => {
  client.close();
});

async function all(items: AsyncIterable<BatchResult>): Promise<BatchResult[]> {
  const found: BatchResult[] = [];
  for await (const item of items) {
    found.push(item);
  }
  return found;
}

test("ids and order", async () => {
  const small = { data: Buffer.alloc(3), width: 1, height: 1 };
  const photos: NamedPhoto[] = [photo, ["two", small], places.photo, ["four", photo]];
  const found = await all(client.removeBackgrounds(photos, { ordered: true, concurrency: 2, model: "brightness" }));
  assert.deepEqual(found.map(({ id }) => id), ["0", "two", "2", "four"]);
  assert.deepEqual(found.map(({ result }) => result?.width), [96, 1, 96, 96]);
  const others = await all(client.removeBackgrounds(photos));
  assert.deepEqual(others.map(({ id }) => id).sort(), ["0", "2", "four", "two"]);
  assert.deepEqual(await all(client.removeBackgrounds([])), []);
});

test("results in order, and as they finish", async () => {
  async function idsOf(ordered: boolean): Promise<string[]> {
    let endFirst: () => void = () => undefined;
    const end = new Promise<void>((resolve) => (endFirst = resolve));
    const remove = async (source: PhotoSource): Promise<RemovalResult> => {
      if (source === "first") {
        await end;
      } else {
        setImmediate(endFirst); // after the batch has taken in this result
      }
      return {} as RemovalResult;
    };
    const batch = new Batch(["first", "second"], remove, { concurrency: 2, ordered, errors: "raise" });
    return (await all(batch.run(undefined))).map(({ id }) => id);
  }
  assert.deepEqual(await idsOf(true), ["0", "1"]);
  assert.deepEqual(await idsOf(false), ["1", "0"]);
});

test("photos are taken as there is room", async () => {
  let taken = 0;
  let ended = false;
  async function* endless(): AsyncGenerator<Buffer> {
    try {
      for (;;) {
        taken += 1;
        yield await Promise.resolve(photo);
      }
    } finally {
      ended = true;
    }
  }
  let given = 0;
  for await (const item of client.removeBackgrounds(endless(), { concurrency: 3 })) {
    assert.ok(item.result);
    assert.ok(taken - given <= 3 + 1, `${taken} taken, ${given} given`);
    given += 1;
    if (given === 10) {
      break;
    }
  }
  assert.ok(ended);
});

test("results don't wait for the next photo", async () => {
  async function* waiting(): AsyncGenerator<Buffer> {
    yield photo;
    await new Promise(() => undefined);
  }
  for await (const { id } of client.removeBackgrounds(waiting())) {
    assert.equal(id, "0");
    break; // and leaving doesn't wait for it either
  }
});

test("errors as values, and thrown", async () => {
  const photos: [string, NamedPhoto][] = [["good", photo], ["bad", Buffer.from("x")], ["none", "/nowhere.png"], ["last", photo]];
  const found = await all(client.removeBackgrounds(photos as NamedPhoto[], { errors: "return", ordered: true }));
  assert.deepEqual(found.map(({ id, error }) => [id, error?.constructor.name ?? null]), [
    ["good", null],
    ["bad", "InvalidRequest"],
    ["none", "Error"],
    ["last", null],
  ]);
  assert.match(String(found[2]?.error), /ENOENT/);
  const error = await errorOf(all(client.removeBackgrounds([photo, Buffer.from("x"), photo])));
  assert.ok(error instanceof InvalidRequest);
});

test("wrong arguments", async () => {
  assert.throws(() => client.removeBackgrounds([photo], { concurrency: 0 }), /concurrency must be 1 or more, not 0/);
  assert.throws(() => client.removeBackgrounds([photo], { errors: "throw" as "raise" }), /'raise' or 'return'/);
  for (const single of [photo, places.photo, 5, null]) {
    assert.throws(() => client.removeBackgrounds(single as unknown as Photos), /must be an iterable of photos/);
  }
  for (const errors of ["raise", "return"] as const) {
    for (const [wrong, kind] of [[7, "number"], [null, "null"], [undefined, "undefined"]] as const) {
      const photos = [photo, wrong as unknown as string, photo];
      const error = await errorOf(all(client.removeBackgrounds(photos, { errors })));
      assert.match(String(error), new RegExp(`TypeError: expected .*, not ${kind}`));
    }
  }
  const error = await errorOf(all(client.removeBackgrounds([photo], { output: { quality: 0 } })));
  assert.ok(error instanceof InvalidRequest);
  function* failing(): Generator<Buffer> {
    yield photo;
    throw new Error("the disk is on fire");
  }
  assert.match(String(await errorOf(all(client.removeBackgrounds(failing(), { errors: "return" })))), /on fire/);
});

test("the signal, and leaving, cancel on the server what is under way", async () => {
  const [address] = places.deaf;
  const deaf = new Client(address);
  const before = await seen(address);
  const abort = new AbortController();
  const pending = errorOf(all(deaf.removeBackgrounds([photo, photo, photo], { signal: abort.signal, errors: "return", concurrency: 2 })));
  await until(async () => (await seen(address)).begun - before.begun === 2);
  abort.abort(new Error("enough"));
  const error = await pending;
  assert.ok(error instanceof Cancelled);
  assert.match(String(error.cause), /enough/);
  await until(async () => (await seen(address)).cancelled - before.cancelled === 2);

  async function* three(): AsyncGenerator<NamedPhoto> {
    yield photo;
    yield photo;
    await until(async () => (await seen(address)).begun - before.begun === 4);
    yield { data: Buffer.alloc(0), width: -1, height: 1 }; // its error ends the batch
  }
  assert.ok((await errorOf(all(deaf.removeBackgrounds(three())))) instanceof InvalidRequest);
  await until(async () => (await seen(address)).cancelled - before.cancelled === 4);
  assert.equal((await seen(address)).begun - before.begun, 4);
  deaf.close();
});
