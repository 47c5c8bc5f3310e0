// The AI SDK with @ai-sdk/openai-compatible.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, embedMany, generateObject, generateText, jsonSchema, Output, stepCountIs, streamObject, streamText,
  tool } from 'ai';
import assert from 'node:assert/strict';
import test from 'node:test';
import { z } from 'zod';
import { all, comesTo, FRANCE, getWeather, GREETING, KEY, LONG, longText, MODEL, PARALLEL, PARALLEL_SAID, PARIS, THOUGHT,
  URL_, user, WEATHER_WORDS } from './kit.mjs';

const provider = (apiKey = KEY) => createOpenAICompatible({
  name: 'octavo', baseURL: `${URL_}/v1`, apiKey, includeUsage: true, supportsStructuredOutputs: true });
const octavo = provider();
const model = octavo(MODEL);
const Person = z.object({ name: z.string(), age: z.number().int() });
const thinking = (enable_thinking, more = {}) => ({ octavo: { enable_thinking, ...more } });
const BASE = { model, temperature: 0, maxRetries: 0, providerOptions: thinking(false) };
const tools = { get_weather: tool({ description: WEATHER_WORDS, inputSchema: z.object({ city: z.string() }),
  execute: getWeather }) };
const ask = (prompt, more = {}) => generateText({ ...BASE, prompt, ...more });
const inputs = (steps) => steps.flatMap((step) => step.toolCalls).map((call) => call.input);

test('text', async () => {
  const { text, finishReason } = await ask(FRANCE);
  assert.deepEqual([text, finishReason], [PARIS, 'stop']);
});

test('text_stream', async () => {
  const pieces = await all(streamText({ ...BASE, prompt: FRANCE }).textStream);
  assert.ok(pieces.length > 1);
  assert.equal(pieces.join(''), PARIS);
});

test('multi_turn', async () => {
  const first = await ask('My name is Ada.', { system: 'Be brief.' });
  const messages = [user('My name is Ada.'), ...first.response.messages, user('What is my name?')];
  assert.equal((await generateText({ ...BASE, messages })).text, 'Your name is Ada.');
});

test('tools_loop', async () => {
  const { text, steps } = await ask('What is the weather in Paris?', { tools, stopWhen: stepCountIs(3) });
  assert.deepEqual([text, steps.length], ['It is 18 degrees in Paris.', 2]);
});

test('tools_loop_with_thinking', async () => {
  const more = { tools, stopWhen: stepCountIs(3), providerOptions: thinking(true) };
  const { text, steps } = await ask('What is the weather in Paris?', more);
  assert.deepEqual([text, steps.length], ['It is 18 degrees in Paris.', 2]);
  assert.ok(steps[0].reasoningText);
});

test('parallel_tools', async () => {
  const { text, steps } = await ask(PARALLEL, { tools, stopWhen: stepCountIs(3) });
  assert.deepEqual([inputs(steps), text], [[{ city: 'Paris' }, { city: 'Rome' }], PARALLEL_SAID]);
});

test('parallel_tools_stream', async () => {
  const result = streamText({ ...BASE, prompt: PARALLEL, tools, stopWhen: stepCountIs(3) });
  const parts = await all(result.fullStream);
  assert.equal(parts.filter((part) => part.type === 'tool-input-start').length, 2);
  assert.equal(parts.filter((part) => part.type === 'tool-error').length, 0);
  assert.deepEqual([inputs(await result.steps), await result.text], [[{ city: 'Paris' }, { city: 'Rome' }], PARALLEL_SAID]);
});

test('forced_tool', async () => {
  for (const toolChoice of ['required', { type: 'tool', toolName: 'get_weather' }]) {
    const { steps, finishReason } = await ask('How is the weather in Oslo?', { tools, toolChoice });
    assert.deepEqual([inputs(steps)[0], finishReason], [{ city: 'Oslo' }, 'tool-calls']);
  }
});

test('structured_generate_object', async () => {
  const { object } = await generateObject({ ...BASE, schema: Person, prompt: 'Describe Ada as JSON.' });
  assert.deepEqual(object, { name: 'Ada', age: 36 });
});

test('structured_stream_object', async () => {
  const result = streamObject({ ...BASE, schema: Person, prompt: 'Describe Ada as JSON.' });
  assert.ok((await all(result.partialObjectStream)).length > 1);
  assert.deepEqual(await result.object, { name: 'Ada', age: 36 });
});

test('structured_output_and_thinking', async () => {
  const more = { output: Output.object({ schema: Person }), providerOptions: thinking(true) };
  const { output, reasoningText } = await ask('Describe Ada as JSON.', more);
  assert.deepEqual([output, reasoningText], [{ name: 'Ada', age: 36 }, 'The user wants JSON.']);
});

test('structured_enum', async () => {
  const { object } = await generateObject({ ...BASE, output: 'enum', enum: ['Paris', 'Rome'], prompt: FRANCE });
  assert.ok(['Paris', 'Rome'].includes(object));
});

test('json_object', async () => {
  const { object } = await generateObject({ ...BASE, output: 'no-schema', prompt: 'Give me a JSON object.' });
  assert.equal(typeof object, 'object');
});

test('reasoning', async () => {
  const { text, reasoningText } = await ask('Hello', { providerOptions: thinking(true) });
  assert.deepEqual([reasoningText, text], [THOUGHT, GREETING]);
});

test('reasoning_stream', async () => {
  const parts = await all(streamText({ ...BASE, prompt: 'Hello', providerOptions: thinking(true) }).fullStream);
  const said = (type) => parts.filter((part) => part.type === type).map((part) => part.text).join('');
  assert.deepEqual([said('reasoning-delta'), said('text-delta')], [THOUGHT, GREETING]);
  const kinds = parts.map((part) => part.type);
  assert.ok(kinds.indexOf('reasoning-end') < kinds.indexOf('text-start'));
});

test('reasoning_budget', async () => {
  const { usage, text } = await ask('Count to twenty.', { providerOptions: thinking(true, { thinking_budget: 2 }) });
  assert.ok(usage.outputTokenDetails.reasoningTokens > 0 && usage.outputTokenDetails.reasoningTokens <= 2 && text);
});

test('reasoning_off', async () => {
  const { usage, reasoningText } = await ask('Hello');
  assert.deepEqual([usage.outputTokenDetails.reasoningTokens, reasoningText], [0, undefined]);
});

test('reasoning_effort', async () => {
  const { reasoningText } = await ask('Hello', { providerOptions: { octavo: { reasoningEffort: 'low' } } });
  assert.equal(reasoningText, THOUGHT);
});

test('usage', async () => {
  await ask(longText('a hen'), { maxOutputTokens: 5 });
  const { usage } = await ask(longText('a hen'), { maxOutputTokens: 5 });
  assert.ok(usage.inputTokenDetails.cacheReadTokens > 0 && usage.outputTokens <= 5);
  assert.equal(usage.totalTokens, usage.inputTokens + usage.outputTokens);
});

test('usage_stream', async () => {
  const result = streamText({ ...BASE, prompt: FRANCE });
  await result.consumeStream();
  assert.equal((await result.usage).outputTokens, (await ask(FRANCE)).usage.outputTokens);
});

test('stop', async () => {
  assert.match((await ask('Count to twenty.', { stopSequences: ['12'] })).text, /11, *$/);
});

test('seed', async () => {
  const providerOptions = thinking(false, { structured_outputs: { regex: '[a-z]{20}' } }); // the seed decides
  const said = async (seed) => (await ask('Hello', { temperature: 2, seed, providerOptions })).text;
  assert.equal(await said(7), await said(7));
  assert.notEqual(await said(7), await said(8));
});

test('unknown_model', async () => {
  await assert.rejects(ask('Hello', { model: octavo('nobody') }),
    (error) => APICallError.isInstance(error) && error.statusCode === 404 && /nobody/.test(error.message));
});

test('bad_field', async () => {
  await assert.rejects(ask('Hello', { temperature: -3 }),
    (error) => APICallError.isInstance(error) && error.statusCode === 400 && !error.isRetryable);
});

test('wrong_key', async () => {
  await assert.rejects(ask('Hello', { model: provider('not-a-key')(MODEL) }),
    (error) => APICallError.isInstance(error) && error.statusCode === 401);
});

test('cancel', async () => {
  const abort = new AbortController();
  const result = streamText({ ...BASE, prompt: 'Hello', maxOutputTokens: 3500, abortSignal: abort.signal,
    output: Output.object({ schema: jsonSchema({ type: 'object', properties: { text: LONG }, required: ['text'] }) }) });
  const kinds = [];
  for await (const part of result.fullStream) {
    kinds.push(part.type);
    if (part.type === 'text-delta' && !abort.signal.aborted) {
      assert.ok(await comesTo('work'));
      abort.abort();
    }
  }
  assert.equal(kinds.at(-1), 'abort');
  assert.ok(await comesTo('rest'));
});

test('completion', async () => {
  const { text } = await generateText({ ...BASE, model: octavo.completionModel(MODEL), prompt: 'Hello', maxOutputTokens: 5 });
  assert.equal(typeof text, 'string');
});

test('embeddings', async () => {
  const { embeddings, usage } = await embedMany({ model: octavo.embeddingModel(MODEL), values: ['Hello', FRANCE] });
  assert.ok(embeddings.length === 2 && usage.tokens > 0);
  assert.equal(embeddings[0].length, embeddings[1].length);
});
