// cr-sqlite itself, the npm package 0.16.0, must still give what is recorded from 0.16.3: the recordings stay honest.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import test from 'node:test';
import { parse } from './format.mjs';
import { runScenario } from './scenarios.mjs';

const here = (path) => new URL(path, import.meta.url);
const isError = (result) => result !== null && typeof result === 'object' && 'error' in result;

for (const file of fs.readdirSync(here('scenarios')).sort()) {
  const name = file.replace('.txt', '');
  const recorded = JSON.parse(fs.readFileSync(here(`expected/${name}.json`), 'utf8'));
  for (const scenario of parse(fs.readFileSync(here(`scenarios/${file}`), 'utf8'), file)) {
    if ('npm' in scenario) continue;
    test(`${name}: ${scenario.name}`, async () => {
      const results = await runScenario(scenario);
      results.forEach((result, i) => {
        const want = recorded[scenario.name][i];
        if (isError(want) && isError(result)) return;
        assert.deepEqual(result, want, `step ${i + 1}: ${scenario.steps[i].sql ?? scenario.steps[i].kind}`);
      });
    });
  }
}
