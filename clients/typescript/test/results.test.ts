/** Answers of servers that are newer than this client. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Limits, ListModelsResponse, Model } from "../src/gen/mattebox/v1/background_removal.js";
import { parseModels } from "../src/results.js";

test("a model of an unknown kind, and with an unknown way to resize photos", () => {
  const nothing = new Uint8Array();
  const listed = [Object.assign(Model.decode(nothing), { name: "new", kind: 99 })];
  const limits = Limits.decode(nothing);
  const answer = ListModelsResponse.encode({ models: listed, defaultModel: "new", limits }).finish();
  const { models } = parseModels(ListModelsResponse.decode(answer));
  assert.deepEqual(models.map(({ name, kind, input }) => ({ name, kind, input })), [
    { name: "new", kind: "unknown", input: { policy: "unknown" } },
  ]);
});
