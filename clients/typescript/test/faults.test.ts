/** Servers that die, hang, use another protocol or don't exist: each gives the right error in time. */

import assert from "node:assert/strict";
import { createServer, type Socket } from "node:net";
import { test } from "node:test";

import {
  Cancelled,
  Client,
  DeadlineExceeded,
  MessageTooLarge,
  NotImplementedByServer,
  Unauthenticated,
  Unavailable,
} from "../src/index.js";
import { errorOf, photo, places, seen, until } from "./support.js";

/** Returns an address at which no server listens. */
async function nobody(): Promise<string> {
  const listener = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => listener.once("listening", resolve));
  const address = listener.address() as { port: number };
  await new Promise((resolve) => listener.close(resolve));
  return `127.0.0.1:${address.port}`;
}

async function using<T>(client: Client, use: (client: Client) => Promise<T>): Promise<T> {
  try {
    return await use(client);
  } finally {
    client.close();
  }
}

test("nobody there", async () => {
  await using(new Client(await nobody()), async (client) => {
    assert.ok((await errorOf(client.removeBackground(photo, { timeout: 20 }))) instanceof Unavailable);
    assert.equal(await client.ready(), false);
    const error = await errorOf(client.waitUntilReady({ timeout: 0.5 }));
    assert.ok(error instanceof DeadlineExceeded);
    assert.match(error.message, /no server was ready within 0.5 s: .*(ECONNREFUSED|connection)/i);
  });
});

test("somebody who never speaks", async () => {
  const accepted: Socket[] = [];
  const listener = createServer((socket) => accepted.push(socket)).listen(0, "127.0.0.1");
  await new Promise((resolve) => listener.once("listening", resolve));
  const { port } = listener.address() as { port: number };
  await using(new Client(`127.0.0.1:${port}`), async (client) => {
    const error = await errorOf(client.removeBackground(photo, { timeout: 0.5 }));
    assert.ok(error instanceof DeadlineExceeded, String(error));
  });
  listener.close();
  for (const socket of accepted) {
    socket.destroy();
  }
});

test("TLS to a server without, and the other way round", async () => {
  await using(new Client(places.server.address, { tls: true }), async (client) => {
    const error = await errorOf(client.removeBackground(photo, { timeout: 20 }));
    assert.ok(error instanceof Unavailable, String(error));
  });
  await using(new Client(places.secure.address), async (client) => {
    const error = await errorOf(client.removeBackground(photo, { timeout: 20 }));
    assert.ok(error instanceof Unavailable, String(error));
  });
});

test("mutual TLS and the token", async () => {
  const { address, ca, certificate, key, token } = places.secure;
  await using(new Client(address, { tls: { ca, certificate, key }, token }), async (client) => {
    assert.equal((await client.removeBackground(photo)).format, "png");
    assert.equal(await client.ready(), true);
  });
  await using(new Client(address, { tls: { ca, certificate, key }, token: "wrong" }), async (client) => {
    const error = await errorOf(client.removeBackground(photo));
    assert.ok(error instanceof Unauthenticated, String(error));
    assert.equal(error.code, "UNAUTHENTICATED");
  });
  for (const tls of [{ ca }, { certificate, key }, { ca, certificate, key, serverName: "elsewhere" }]) {
    await using(new Client(address, { tls, token }), async (client) => {
      const error = await errorOf(client.removeBackground(photo, { timeout: 20 }));
      assert.ok(error instanceof Unavailable, String(error));
    });
  }
});

test("messages that are too large", async () => {
  await using(new Client(places.server.address, { maxMessageBytes: 100 }), async (client) => {
    const error = await errorOf(client.removeBackground(photo));
    assert.ok(error instanceof MessageTooLarge, String(error)); // the request
  });
  await using(new Client(places.server.address, { maxMessageBytes: photo.length + 200 }), async (client) => {
    const error = await errorOf(client.removeBackground(photo, { output: { format: "raw" } }));
    assert.ok(error instanceof MessageTooLarge, String(error)); // the answer
  });
  await using(new Client(places.strict.address), async (client) => {
    const { limits } = await client.models();
    const error = await errorOf(client.removeBackground(Buffer.alloc(limits.maxMessageBytes + 1)));
    assert.ok(error instanceof MessageTooLarge, String(error)); // for the server
  });
});

test("an answer that breaks off", async () => {
  const [address] = places.deaf; // breaks off twice, and answers then
  await using(new Client(address, { retries: 1 }), async (client) => {
    const error = await errorOf(client.removeBackground(photo, { model: "breaks" }));
    assert.ok(error instanceof Unavailable, String(error));
    assert.equal((await client.removeBackground(photo, { model: "breaks" })).requestId, "3");
  });
});

test("a busy server says when to come back", async () => {
  const [, address] = places.deaf;
  await using(new Client(address), async (client) => {
    const { image } = await client.removeBackground(photo, { model: "busy" });
    assert.equal(Buffer.from(image).toString(), "patient");
  });
});

test("the signal cancels a call on the server", async () => {
  const [address] = places.deaf;
  await using(new Client(address), async (client) => {
    const before = await seen(address);
    const abort = new AbortController();
    const pending = errorOf(client.removeBackground(photo, { signal: abort.signal }));
    await until(async () => (await seen(address)).begun > before.begun);
    abort.abort();
    assert.ok((await pending) instanceof Cancelled);
    await until(async () => (await seen(address)).cancelled > before.cancelled);
    const late = await errorOf(client.removeBackground(photo, { signal: abort.signal }));
    assert.ok(late instanceof Cancelled);
    assert.equal((late.cause as Error).name, "AbortError");
  });
});

test("closing, and the timeout, cancel calls on the server", async () => {
  const [address] = places.deaf;
  const client = new Client(address);
  const before = await seen(address);
  assert.ok((await errorOf(client.removeBackground(photo, { timeout: 0.3 }))) instanceof DeadlineExceeded);
  await until(async () => (await seen(address)).cancelled - before.cancelled === 1);
  const pending = errorOf(client.removeBackground(photo, { timeout: null }));
  await until(async () => (await seen(address)).begun - before.begun === 2);
  client.close();
  assert.ok((await pending) instanceof Cancelled);
  await until(async () => (await seen(address)).cancelled - before.cancelled === 2);
});

test("several servers are used in turn", async () => {
  const before = await Promise.all(places.deaf.map(seen));
  const pending: Promise<unknown>[] = [];
  await using(new Client(places.deaf), async (client) => {
    await until(async () => {
      pending.push(errorOf(client.removeBackground(photo))); // the first ones go to who is connected first
      const now = await Promise.all(places.deaf.map(seen));
      return now.every(({ begun }, index) => begun > (before[index]?.begun ?? 0));
    });
  });
  for (const error of await Promise.all(pending)) {
    assert.ok(error instanceof Cancelled);
  }
});

test("an older server", async () => {
  await using(new Client(places.cases), async (client) => {
    assert.ok((await errorOf(client.models())) instanceof NotImplementedByServer);
  });
});

test("a server that stops, goes on and is killed", async () => {
  const { address, pid } = places.victim;
  await using(new Client(address, { retries: 0 }), async (client) => {
    assert.equal((await client.removeBackground(photo)).format, "png");
    process.kill(pid, "SIGSTOP");
    const error = await errorOf(client.removeBackground(photo, { timeout: 0.5 }));
    assert.ok(error instanceof DeadlineExceeded, String(error));
    process.kill(pid, "SIGCONT");
    assert.equal((await client.removeBackground(photo)).format, "png");

    const several = new Client([address, places.server.address]);
    let count = 0;
    let pending: Promise<unknown> | null = null;
    for await (const { result } of several.removeBackgrounds(Array<Buffer>(30).fill(photo), { concurrency: 4 })) {
      assert.ok(result);
      count += 1;
      if (count === 5) {
        process.kill(pid, "SIGSTOP");
        pending = errorOf(client.removeBackground(photo, { timeout: 20 }));
        setTimeout(() => process.kill(pid, "SIGKILL"), 300); // in the midst of both clients' calls
      }
    }
    assert.equal(count, 30); // the other server did the rest, and what the first had begun
    several.close();
    const killed = await pending;
    assert.ok(killed instanceof Unavailable, String(killed));
  });
});
