// What the scenarios share: where the server is, what its model can be asked, and whether its engine is at rest.
import { setTimeout as sleep } from 'node:timers/promises';

export const URL_ = process.env.OCTAVO_URL;
export const KEY = process.env.OCTAVO_KEY;
export const MODEL = process.env.OCTAVO_MODEL;
export const TIMEOUT_MS = 30_000;
export const FRANCE = 'What is the capital of France?';
export const PARIS = 'The capital of France is Paris.';
export const GREETING = 'Hello! How can I help you?';
export const THOUGHT = 'The user greets me.';
export const PARALLEL = 'What is the weather in Paris and Rome?';
export const PARALLEL_SAID = 'It is 18 degrees in Paris, and 21 degrees in Rome.';
export const CITY = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
export const LONG = { type: 'string', minLength: 12000, maxLength: 12000 }; // takes all the tokens that it may have
export const WEATHER_WORDS = 'The weather in a city.';
export const user = (content) => ({ role: 'user', content });
export const getWeather = ({ city }) => (city === 'Paris' ? '18 degrees' : '21 degrees');
export const longText = (who) => `Tell me how ${who} sings three things about rain, and writes a book. `.repeat(12);

/** All that an async iterable gives. */
export async function all(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

/** Replies that the engine computes now. */
async function running() {
  const answer = await fetch(`${URL_}/metrics`, { headers: { authorization: `Bearer ${KEY}` } });
  if (!answer.ok) throw new Error(`/metrics answers ${answer.status}`);
  const lines = (await answer.text()).split('\n').filter((line) => line.startsWith('octavo:num_requests_running'));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

/** Whether the engine computes something, or nothing any more, soon. */
export async function comesTo(work, withinMs = 2000) {
  const end = Date.now() + withinMs;
  while ((await running()) > 0 !== (work === 'work')) {
    if (Date.now() > end) return false;
    await sleep(20);
  }
  return true;
}
