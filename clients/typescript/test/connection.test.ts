/** Arguments that the constructor refuses. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, type ConnectionOptions } from "../src/index.js";

function refused(address: string | string[], options: unknown = {}): string {
  try {
    new Client(address, options as ConnectionOptions).close();
  } catch (error) {
    return String(error);
  }
  return "";
}

test("addresses", () => {
  for (const address of ["", "127.0.0.1", "h:", "h:99999", "h:0", ":5", "http://h:5", "h:5x"]) {
    assert.match(refused(address), /RangeError: address '.*' must be HOST:PORT/, address);
  }
  assert.match(refused([]), /address is an empty list/);
  assert.match(refused(["localhost:5", "127.0.0.1:5"]), /'localhost' is no IP address/);
  assert.match(refused(["127.0.0.1:5", "[::1]:5"]), /all of IPv4 or all of IPv6/);
  for (const address of ["localhost:5", "[::1]:5", "unix:/tmp/x", "dns:///localhost:5"]) {
    assert.equal(refused(address), "");
  }
  assert.equal(refused(["[::1]:5", "[::1]:6"]), "");
});

test("tokens in the clear", () => {
  for (const address of ["elsewhere:5", "10.0.0.1:5", "dns:///localhost:5", "127.0.0.1.example.org:5"]) {
    assert.match(refused(address, { token: "t" }), /in the clear: use tls, or allowInsecure/, address);
    assert.equal(refused(address, { token: "t", tls: true }), "");
    assert.equal(refused(address, { token: "t", allowInsecure: true }), "");
  }
  assert.match(refused(["127.0.0.1:5", "10.0.0.1:5"], { token: "t" }), /in the clear/);
  for (const address of ["127.0.0.1:5", "localhost:5", "[::1]:5", "unix:/tmp/x", ["127.0.0.1:5", "127.0.0.2:5"]]) {
    assert.equal(refused(address, { token: "t" }), "");
  }
});

test("options", () => {
  const cases: [ConnectionOptions | Record<string, unknown>, RegExp][] = [
    [{ timeout: 5 }, /TypeError: Client has no option 'timeout'/],
    [{ token: "" }, /token must be printable ASCII/],
    [{ token: "a\nb" }, /token must be printable ASCII/],
    [{ retries: 5 }, /retries must be 0 to 4, not 5/],
    [{ retries: -1 }, /retries must be 0 to 4, not -1/],
    [{ maxMessageBytes: 0 }, /maxMessageBytes must be 1 or more/],
    [{ keepalive: 9 }, /keepalive must be 10 seconds or more/],
    [{ keepalive: NaN }, /keepalive must be 10 seconds or more/],
    [{ allowInsecure: "yes" }, /allowInsecure must be true or false/],
    [{ tls: { certificate: "c.pem" } }, /certificate and key must be given together/],
    [{ tls: { ca: "/nowhere.pem" } }, /ENOENT/],
    [{ tls: { authority: "a.pem" } }, /tls has no option 'authority'/],
  ];
  for (const [options, words] of cases) {
    assert.match(refused("127.0.0.1:5", options), words);
  }
  assert.equal(refused("127.0.0.1:5", { keepalive: null, retries: 0, tls: undefined }), "");
});
