// @anthropic-ai/sdk: Messages.
import Anthropic from '@anthropic-ai/sdk';
import { betaZodTool } from '@anthropic-ai/sdk/helpers/beta/zod';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import assert from 'node:assert/strict';
import test from 'node:test';
import { z } from 'zod';
import { all, CITY, comesTo, FRANCE, getWeather, GREETING, KEY, LONG, longText, MODEL, PARALLEL, PARALLEL_SAID, PARIS,
  THOUGHT, TIMEOUT_MS, URL_, user, WEATHER_WORDS } from './kit.mjs';

const client = (key = KEY) => new Anthropic({ baseURL: URL_, apiKey: key, maxRetries: 0, timeout: TIMEOUT_MS });
const ai = client();
const WEATHER = { name: 'get_weather', description: WEATHER_WORDS, input_schema: CITY };
const BASE = { model: MODEL, max_tokens: 1500, temperature: 0, thinking: { type: 'disabled' } };
const ON = { type: 'enabled', budget_tokens: 1024 };
const ask = (given, more = {}) =>
  ai.messages.create({ ...BASE, messages: typeof given === 'string' ? [user(given)] : given, ...more });

test('text', async () => {
  const message = await ask(FRANCE);
  assert.deepEqual([message.content[0].text, message.stop_reason], [PARIS, 'end_turn']);
});

test('text_stream', async () => {
  const events = await all(await ask(FRANCE, { stream: true }));
  assert.equal(events.filter((e) => e.type === 'content_block_delta').map((e) => e.delta.text).join(''), PARIS);
});

test('text_stream_helper', async () => {
  let said = '';
  const stream = ai.messages.stream({ ...BASE, messages: [user(FRANCE)] }).on('text', (delta) => (said += delta));
  assert.equal((await stream.finalMessage()).content[0].text, PARIS);
  assert.equal(said, PARIS);
});

test('multi_turn', async () => {
  const first = await ask('My name is Ada.');
  const talk = [user('My name is Ada.'), { role: 'assistant', content: first.content }, user('What is my name?')];
  assert.equal((await ask(talk)).content[0].text, 'Your name is Ada.');
});

test('tools_loop', async () => {
  const first = await ask(PARALLEL, { tools: [WEATHER], thinking: ON });
  assert.equal(first.stop_reason, 'tool_use');
  const results = first.content.filter((block) => block.type === 'tool_use').map((call) => ({
    type: 'tool_result', tool_use_id: call.id, content: getWeather(call.input) }));
  const talk = [user(PARALLEL), { role: 'assistant', content: first.content }, user(results)];
  const last = await ask(talk, { tools: [WEATHER], thinking: ON });
  assert.equal(last.content.at(-1).text, PARALLEL_SAID);
});

for (const stream of [false, true]) {
  test(stream ? 'tool_runner_stream' : 'tool_runner', async () => {
    const tool = betaZodTool({ name: 'get_weather', description: WEATHER_WORDS, inputSchema: z.object({ city: z.string() }),
      run: getWeather });
    const runner = ai.beta.messages.toolRunner({ ...BASE, messages: [user('What is the weather in Paris?')], tools: [tool],
      stream });
    assert.equal((await runner.runUntilDone()).content.at(-1).text, 'It is 18 degrees in Paris.');
  });
}

test('parallel_tools_stream', async () => {
  const stream = ai.messages.stream({ ...BASE, messages: [user(PARALLEL)], tools: [WEATHER] });
  const calls = (await stream.finalMessage()).content.filter((block) => block.type === 'tool_use');
  assert.deepEqual(calls.map((call) => call.input), [{ city: 'Paris' }, { city: 'Rome' }]);
});

test('forced_tool', async () => {
  const tool_choice = { type: 'tool', name: 'get_weather' };
  const message = await ask('How is the weather in Oslo?', { tools: [WEATHER], tool_choice });
  assert.deepEqual(message.content.map((block) => block.input), [{ city: 'Oslo' }]);
});

test('structured_parse', async () => {
  const format = zodOutputFormat(z.object({ name: z.string(), age: z.number().int() }));
  const message = await ai.messages.parse({ ...BASE, messages: [user('Describe Ada as JSON.')], output_config: { format } });
  assert.deepEqual(message.parsed_output, { name: 'Ada', age: 36 });
});

test('reasoning', async () => {
  const { content } = await ask('Hello', { thinking: ON });
  assert.deepEqual([content[0].thinking, content[1].text], [THOUGHT, GREETING]);
});

test('reasoning_stream', async () => {
  let thought = '';
  const stream = ai.messages.stream({ ...BASE, messages: [user('Hello')], thinking: ON });
  stream.on('thinking', (delta) => (thought += delta));
  assert.equal((await stream.finalMessage()).content[0].thinking, THOUGHT);
  assert.equal(thought, THOUGHT);
});

test('reasoning_budget', async () => {
  const { usage } = await ask('Count to twenty.', { thinking: { type: 'enabled', budget_tokens: 2 } });
  assert.ok(usage.output_tokens_details.thinking_tokens > 0 && usage.output_tokens_details.thinking_tokens <= 2);
});

test('usage', async () => {
  const [first, second] = [await ask(longText('a fox'), { max_tokens: 5 }), await ask(longText('a fox'), { max_tokens: 5 })];
  assert.ok(first.usage.output_tokens <= 5 && second.usage.cache_read_input_tokens > 0);
});

test('count_tokens', async () => {
  const { input_tokens } = await ai.messages.countTokens({ model: MODEL, messages: [user(FRANCE)], thinking: BASE.thinking });
  const { usage } = await ask(FRANCE);
  assert.equal(input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
});

test('stop', async () => {
  const message = await ask('Count to twenty.', { stop_sequences: ['12'] });
  assert.deepEqual([message.stop_reason, message.stop_sequence], ['stop_sequence', '12']);
});

test('unknown_model', async () => {
  await assert.rejects(ask('Hello', { model: 'nobody' }), (error) => error instanceof Anthropic.NotFoundError);
});

test('bad_field', async () => {
  await assert.rejects(ask('Hello', { temperature: 'hot' }), (error) => error instanceof Anthropic.BadRequestError);
});

test('wrong_key', async () => {
  const stranger = client('not-a-key').messages.create({ ...BASE, messages: [user('Hello')] });
  await assert.rejects(stranger, (error) => error instanceof Anthropic.AuthenticationError);
});

test('cancel', async () => {
  const output_config = { format: { type: 'json_schema', schema: LONG } };
  const stream = ai.messages.stream({ ...BASE, max_tokens: 3500, messages: [user('Hello')], output_config });
  const ended = assert.rejects(stream.done(), (error) => error instanceof Anthropic.APIUserAbortError);
  await new Promise((begun) => stream.once('text', begun));
  assert.ok(await comesTo('work'));
  stream.abort();
  await ended;
  assert.ok(await comesTo('rest'));
});

test('models', async () => {
  assert.ok((await all(ai.models.list())).some((model) => model.id === MODEL));
});
