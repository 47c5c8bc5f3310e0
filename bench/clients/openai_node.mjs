// openai-node: Chat Completions, Responses and the rest.
import assert from 'node:assert/strict';
import test from 'node:test';
import OpenAI, { toFile } from 'openai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { all, CITY, comesTo, FRANCE, getWeather, GREETING, KEY, LONG, longText, MODEL, PARALLEL, PARALLEL_SAID, PARIS,
  THOUGHT, TIMEOUT_MS, URL_, user, WEATHER_WORDS } from './kit.mjs';

const client = (key = KEY) => new OpenAI({ baseURL: `${URL_}/v1`, apiKey: key, maxRetries: 0, timeout: TIMEOUT_MS });
const ai = client();
const Person = z.object({ name: z.string(), age: z.number().int() });
const WEATHER = { type: 'function', function: { name: 'get_weather', description: WEATHER_WORDS, parameters: CITY } };
const TOOL = { type: 'function', name: 'get_weather', description: WEATHER_WORDS, parameters: CITY, strict: false };
const OFF = { enable_thinking: false };
const ask = (text, more = {}) =>
  ai.chat.completions.create({ model: MODEL, messages: [user(text)], temperature: 0, ...OFF, ...more });
const respond = (input, more = {}) =>
  ai.responses.create({ model: MODEL, input, temperature: 0, reasoning: { effort: 'none' }, ...more });
const argumentsOf = (calls) => calls.map((call) => JSON.parse(call.function.arguments));

test('text', async () => {
  const answer = await ask(FRANCE);
  assert.equal(answer.choices[0].message.content, PARIS);
  assert.equal(answer.choices[0].finish_reason, 'stop');
});

test('text_stream', async () => {
  const chunks = await all(await ask(FRANCE, { stream: true }));
  assert.equal(chunks.map((c) => c.choices[0].delta.content ?? '').join(''), PARIS);
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
});

test('text_stream_helper', async () => {
  const stream = ai.chat.completions.stream({ model: MODEL, messages: [user(FRANCE)], temperature: 0, ...OFF });
  let said = '';
  stream.on('content', (delta) => (said += delta));
  assert.equal(await stream.finalContent(), PARIS);
  assert.equal(said, PARIS);
});

test('multi_turn', async () => {
  const first = await ask('My name is Ada.');
  const messages = [user('My name is Ada.'), first.choices[0].message, user('What is my name?')];
  const second = await ask('', { messages });
  assert.equal(second.choices[0].message.content, 'Your name is Ada.');
});

test('tools_loop', async () => {
  const tools = [{ type: 'function', function: { ...WEATHER.function, function: getWeather, parse: JSON.parse } }];
  const runner = ai.chat.completions.runTools({
    model: MODEL, messages: [user('What is the weather in Paris?')], tools, temperature: 0, ...OFF });
  assert.equal(await runner.finalContent(), 'It is 18 degrees in Paris.');
});

test('tools_loop_stream', async () => {
  const tools = [{ type: 'function', function: { ...WEATHER.function, function: getWeather, parse: JSON.parse } }];
  const runner = ai.chat.completions.runTools({
    model: MODEL, messages: [user(PARALLEL)], tools, temperature: 0, stream: true, ...OFF });
  assert.equal(await runner.finalContent(), PARALLEL_SAID);
});

test('parallel_tools', async () => {
  const { message, finish_reason } = (await ask(PARALLEL, { tools: [WEATHER] })).choices[0];
  assert.equal(finish_reason, 'tool_calls');
  assert.deepEqual(argumentsOf(message.tool_calls), [{ city: 'Paris' }, { city: 'Rome' }]);
});

test('parallel_tools_stream', async () => {
  const stream = ai.chat.completions.stream({ model: MODEL, messages: [user(PARALLEL)], tools: [WEATHER],
    temperature: 0, ...OFF });
  const done = [];
  stream.on('tool_calls.function.arguments.done', (event) => done.push([event.index, JSON.parse(event.arguments).city]));
  const { message } = (await stream.finalChatCompletion()).choices[0];
  assert.deepEqual(done, [[0, 'Paris'], [1, 'Rome']]);
  assert.equal(new Set(message.tool_calls.map((call) => call.id)).size, 2);
});

test('forced_tool', async () => {
  const tool_choice = { type: 'function', function: { name: 'get_weather' } };
  const { message } = (await ask('How is the weather in Oslo?', { tools: [WEATHER], tool_choice })).choices[0];
  assert.deepEqual(argumentsOf(message.tool_calls), [{ city: 'Oslo' }]);
});

test('structured_parse', async () => {
  const answer = await ai.chat.completions.parse({ model: MODEL, messages: [user('Describe Ada as JSON.')],
    response_format: zodResponseFormat(Person, 'person'), temperature: 0 });
  assert.deepEqual(answer.choices[0].message.parsed, { name: 'Ada', age: 36 });
});

test('structured_parse_stream', async () => {
  const stream = ai.chat.completions.stream({ model: MODEL, messages: [user('Describe Ada as JSON.')],
    response_format: zodResponseFormat(Person, 'person'), temperature: 0 });
  assert.deepEqual((await stream.finalChatCompletion()).choices[0].message.parsed, { name: 'Ada', age: 36 });
});

test('structured_tool_parse', async () => {
  const tool = zodFunction({ name: 'get_weather', description: WEATHER_WORDS, parameters: z.object({ city: z.string() }) });
  const answer = await ai.chat.completions.parse({ model: MODEL, messages: [user('What is the weather in Paris?')],
    tools: [tool], tool_choice: 'required', parallel_tool_calls: false, temperature: 0, ...OFF });
  assert.deepEqual(answer.choices[0].message.tool_calls[0].function.parsed_arguments, { city: 'Paris' });
});

test('json_object', async () => {
  const answer = await ask('Give me a JSON object.', { response_format: { type: 'json_object' } });
  assert.deepEqual(JSON.parse(answer.choices[0].message.content), { name: 'Ada', age: 36 });
});

test('reasoning', async () => {
  const { message } = (await ask('Hello', { enable_thinking: true })).choices[0];
  assert.deepEqual([message.reasoning, message.reasoning_content, message.content], [THOUGHT, THOUGHT, GREETING]);
});

test('reasoning_stream', async () => {
  const deltas = (await all(await ask('Hello', { enable_thinking: true, stream: true }))).map((c) => c.choices[0].delta);
  assert.equal(deltas.map((d) => d.reasoning_content ?? '').join(''), THOUGHT);
  assert.equal(deltas.map((d) => d.content ?? '').join(''), GREETING);
});

test('reasoning_budget', async () => {
  const { usage } = await ask('Count to twenty.', { enable_thinking: true, thinking_budget: 2 });
  assert.ok(usage.completion_tokens_details.reasoning_tokens <= 2 && usage.completion_tokens_details.reasoning_tokens > 0);
});

test('reasoning_effort', async () => {
  for (const [reasoning_effort, thinks] of [['none', false], ['medium', true]]) {
    const { usage } = await ask('Hello', { enable_thinking: undefined, reasoning_effort });
    assert.equal(usage.completion_tokens_details.reasoning_tokens > 0, thinks);
  }
});

test('usage', async () => {
  const [first, second] = [await ask(longText('a cat'), { max_tokens: 5 }), await ask(longText('a cat'), { max_tokens: 5 })];
  assert.equal(first.usage.total_tokens, first.usage.prompt_tokens + first.usage.completion_tokens);
  assert.ok(second.usage.prompt_tokens_details.cached_tokens > 0);
});

test('usage_stream', async () => {
  const chunks = await all(await ask(FRANCE, { stream: true, stream_options: { include_usage: true } }));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, (await ask(FRANCE)).usage.completion_tokens);
});

test('logprobs', async () => {
  const { content } = (await ask(FRANCE, { logprobs: true, top_logprobs: 2 })).choices[0].logprobs;
  assert.ok(content.map((token) => token.token).join('').startsWith(PARIS));
  assert.ok(content.every((token) => token.logprob <= 0 && token.top_logprobs.length === 2));
});

test('several_replies', async () => {
  assert.deepEqual((await ask('Hello', { n: 2 })).choices.map((c) => c.message.content), [GREETING, GREETING]);
});

test('stop', async () => {
  const { message } = (await ask('Count to twenty.', { stop: ['12'] })).choices[0];
  assert.match(message.content, /11, *$/);
});

test('seed', async () => {
  const structured_outputs = { regex: '[a-z]{20}' }; // anything may follow, so that the seed decides
  const said = async (seed) => (await ask('Hello', { temperature: 2, seed, structured_outputs })).choices[0].message.content;
  assert.equal(await said(7), await said(7));
  assert.notEqual(await said(7), await said(8));
});

test('unknown_model', async () => {
  await assert.rejects(ask('Hello', { model: 'nobody' }), (error) => error instanceof OpenAI.NotFoundError);
});

test('bad_field', async () => {
  await assert.rejects(ask('Hello', { temperature: 'hot' }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === 'temperature');
});

test('wrong_key', async () => {
  const stranger = client('not-a-key').chat.completions.create({ model: MODEL, messages: [user('Hello')] });
  await assert.rejects(stranger, (error) => error instanceof OpenAI.AuthenticationError);
});

test('cancel', async () => {
  const response_format = { type: 'json_schema', json_schema: { name: 'long', schema: LONG } };
  const stream = await ask('Hello', { response_format, max_tokens: 3500, stream: true });
  for await (const _ of stream) {
    assert.ok(await comesTo('work'));
    break; // leaving the loop aborts the request
  }
  assert.ok(await comesTo('rest'));
  assert.equal((await ask(FRANCE)).choices[0].message.content, PARIS);
});

test('responses_text', async () => {
  assert.equal((await respond(FRANCE)).output_text, PARIS);
});

test('responses_stream', async () => {
  const events = await all(await respond(FRANCE, { stream: true }));
  assert.equal(events.filter((e) => e.type === 'response.output_text.delta').map((e) => e.delta).join(''), PARIS);
  assert.equal(events.at(-1).type, 'response.completed');
});

test('responses_stream_helper', async () => {
  const stream = ai.responses.stream({ model: MODEL, input: FRANCE, temperature: 0, reasoning: { effort: 'none' } });
  assert.equal((await stream.finalResponse()).output_text, PARIS);
});

test('responses_reasoning_stream', async () => {
  const reasoning = { effort: 'high', summary: 'auto' };
  const stream = ai.responses.stream({ model: MODEL, input: 'Hello', temperature: 0, reasoning });
  let thought = '';
  stream.on('response.reasoning_summary_text.delta', (event) => (thought += event.delta));
  assert.equal((await stream.finalResponse()).output_text, GREETING);
  assert.equal(thought, THOUGHT);
});

test('responses_previous_and_retrieve', async () => {
  const first = await respond('My name is Ada.');
  const second = await respond('What is my name?', { previous_response_id: first.id });
  assert.equal(second.output_text, 'Your name is Ada.');
  assert.equal((await ai.responses.retrieve(second.id)).output_text, 'Your name is Ada.');
});

test('responses_tools_loop', async () => {
  const first = await respond(PARALLEL, { tools: [TOOL] });
  const results = first.output.filter((item) => item.type === 'function_call').map((call) => ({
    type: 'function_call_output', call_id: call.call_id, output: getWeather(JSON.parse(call.arguments)) }));
  const last = await respond(results, { tools: [TOOL], previous_response_id: first.id });
  assert.equal(last.output_text, PARALLEL_SAID);
});

test('responses_parse', async () => {
  const answer = await ai.responses.parse({ model: MODEL, input: 'Describe Ada as JSON.', temperature: 0,
    text: { format: zodTextFormat(Person, 'person') } });
  assert.deepEqual(answer.output_parsed, { name: 'Ada', age: 36 });
});

test('responses_cancel', async () => {
  const format = { type: 'json_schema', name: 'long', schema: LONG };
  const stream = await respond('Hello', { text: { format }, max_output_tokens: 3500, stream: true });
  let id, last;
  for await (const event of stream) {
    last = event.type;
    if (event.type === 'response.created') id = event.response.id;
    if (event.type === 'response.output_text.delta' && id) {
      assert.equal((await ai.responses.cancel(id)).status, 'cancelled');
      id = '';
    }
  }
  assert.equal(last, 'response.incomplete');
  assert.ok(await comesTo('rest'));
});

test('completion', async () => {
  const more = { model: MODEL, prompt: '1, 2, 3,', max_tokens: 8, temperature: 0 };
  const whole = (await ai.completions.create(more)).choices[0].text;
  const chunks = await all(await ai.completions.create({ ...more, stream: true }));
  assert.equal(chunks.flatMap((c) => c.choices).map((c) => c.text).join(''), whole);
});

test('embeddings', async () => {
  const { data } = await ai.embeddings.create({ model: MODEL, input: ['Hello', FRANCE] });
  assert.ok(data.length === 2 && data[0].embedding.length === data[1].embedding.length);
  assert.notDeepEqual(data[0].embedding, data[1].embedding);
});

test('models', async () => {
  assert.ok((await all(await ai.models.list())).some((model) => model.id === MODEL));
});

test('files_and_batches', async () => {
  const body = { model: MODEL, messages: [user(FRANCE)], temperature: 0, ...OFF };
  const line = JSON.stringify({ custom_id: 'one', method: 'POST', url: '/v1/chat/completions', body });
  const file = await ai.files.create({ file: await toFile(Buffer.from(line), 'asks.jsonl'), purpose: 'batch' });
  let batch = await ai.batches.create({
    input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' });
  for (const end = Date.now() + TIMEOUT_MS; !['completed', 'failed'].includes(batch.status) && Date.now() < end;) {
    await new Promise((done) => setTimeout(done, 100));
    batch = await ai.batches.retrieve(batch.id);
  }
  assert.equal(batch.status, 'completed');
  const [done] = (await (await ai.files.content(batch.output_file_id)).text()).trim().split('\n').map(JSON.parse);
  assert.equal(done.response.body.choices[0].message.content, PARIS);
});
