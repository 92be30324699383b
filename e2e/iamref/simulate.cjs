// Answers, for each simulation of a JSON list on standard input, what @cloud-copilot/iam-simulate says: a list of
// {effect, ignored, error}. NODE_PATH says where the package is.
'use strict'
const { runSimulation } = require('@cloud-copilot/iam-simulate')

async function simulate({ policies, keyPolicy, principal, action, resource, account, context }) {
  const answer = await runSimulation({
    request: { principal, action, resource: { resource, accountId: account }, contextVariables: context },
    identityPolicies: policies.map((policy, i) => ({ name: 'policy' + i, policy })),
    serviceControlPolicies: [],
    resourceControlPolicies: [],
    resourcePolicy: keyPolicy ?? undefined,
  }, {})
  if (answer.resultType === 'error') {
    return { error: JSON.stringify(answer.errors) }
  }
  const results = answer.resultType === 'single' ? [answer.result] : answer.results
  return { effect: answer.overallResult, ignored: results.flatMap((r) => r.ignoredContextKeys ?? []) }
}

async function main() {
  const chunks = []
  for await (const chunk of process.stdin) {
    chunks.push(chunk)
  }
  const out = []
  for (const simulation of JSON.parse(Buffer.concat(chunks).toString())) {
    try {
      out.push(await simulate(simulation))
    } catch (error) {
      out.push({ error: String(error) })
    }
  }
  process.stdout.write(JSON.stringify(out))
}

main()
