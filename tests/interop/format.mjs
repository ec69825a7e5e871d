// The scenario format; interop.py has the same grammar and README.md describes it.
export function parse(text, file) {
  const scenarios = [];
  let scenario = null;
  let step = null;
  text.split('\n').forEach((line, i) => {
    const fail = (what) => { throw new Error(`${file}:${i + 1}: ${what}`); };
    if (line.trim() === '' || line.startsWith('--')) return;
    if (/^\s/.test(line)) {
      if (step?.sql === undefined) fail('continuation of nothing');
      step.sql += `\n${line.trim()}`;
      return;
    }
    if (line.startsWith('== ')) {
      const [name, title = ''] = line.slice(3).split(' | ');
      scenario = { name: name.trim(), title: title.trim(), steps: [] };
      scenarios.push(scenario);
      step = null;
      return;
    }
    if (scenario === null) fail('a step before the first scenario');
    if (line.startsWith('@')) {
      const [, key, value] = /^@(\w+)\s*(.*)$/.exec(line);
      scenario[key] = value;
      return;
    }
    if (line.startsWith('=> ')) {
      if (step === null) fail('an expectation of nothing');
      step.rejoin = JSON.parse(line.slice(3));
      return;
    }
    step = parseStep(line) ?? fail(`not a step: ${line}`);
    scenario.steps.push(step);
  });
  return scenarios;
}

const KINDS = { ':': 'run', '?': 'query', '!': 'fails' };

function parseStep(line) {
  let m = /^([a-d](?:,[a-d])*)([:?!]) (.*)$/.exec(line);
  if (m) return { kind: KINDS[m[2]], dbs: m[1].split(','), sql: m[3] };
  m = /^(changes|reopen) ([a-d](?:,[a-d])*)$/.exec(line);
  if (m) return { kind: m[1], dbs: m[2].split(',') };
  m = /^sync ([a-d]) ([a-d])((?: [a-z]+(?:=\d+)?)*)$/.exec(line);
  if (m) {
    const options = {};
    for (const word of m[3].split(' ').filter(Boolean)) {
      const [key, value = true] = word.split('=');
      options[key] = value;
    }
    return { kind: 'sync', from: m[1], to: m[2], options };
  }
  return null;
}
