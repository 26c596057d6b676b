// What users of Foundry do, against a running cluster: node forge.mjs http://HOST:PORT
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const url = process.argv[2];
const require = createRequire(import.meta.url);
const tool = (name) => require.resolve(`@foundry-rs/${name}-linux-amd64/bin/${name}`);
const key = "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6";
const rpc = async (method, params = [], at = url) => {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const answer = await fetch(at, { method: "POST", headers: { "content-type": "application/json" }, body });
  const { result, error } = await answer.json();
  assert.ok(!error, `${method}: ${error?.message}`);
  return result;
};

const project = mkdtempSync(join(tmpdir(), "atoll-forge-"));
const put = (file, text) => {
  mkdirSync(join(project, file, ".."), { recursive: true });
  writeFileSync(join(project, file), text);
};
// forge looks for a compiler on the network; this one is the solc of npm.
put("solc", `#!/usr/bin/env node
const solc = require(${JSON.stringify(require.resolve("solc"))});
if (process.argv.includes("--version")) {
  console.log("solc, the solidity compiler commandline interface\\nVersion: " + solc.version().replace(".Emscripten.clang", ".Linux.g++"));
} else {
  process.stdout.write(solc.compile(require("fs").readFileSync(0, "utf8")));
}
`);
chmodSync(join(project, "solc"), 0o755);
put("foundry.toml", `[profile.default]
solc = "${join(project, "solc")}"
offline = true
evm_version = "prague"
optimizer = true
auto_detect_solc = false
lint_on_build = false
`);
put("src/Counter.sol", `// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;
contract Counter {
    uint256 public number;
    address public immutable owner;
    constructor(uint256 first) { number = first; owner = msg.sender; }
    function add(uint256 n) external returns (uint256) { number += n; return number; }
}
contract Caller {
    function both(Counter a, Counter b) external { a.add(1); b.add(2); }
}
`);
put("script/Deploy.s.sol", `// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;
import {Counter, Caller} from "../src/Counter.sol";
interface Vm { function startBroadcast() external; function stopBroadcast() external; }
contract Deploy {
    Vm constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    bool public IS_SCRIPT = true;
    function run() external {
        vm.startBroadcast();
        Counter[] memory all = new Counter[](12);
        for (uint256 i = 0; i < all.length; i++) all[i] = new Counter(i);
        Caller caller = new Caller();
        for (uint256 i = 1; i < all.length; i++) caller.both(all[i - 1], all[i]);
        vm.stopBroadcast();
    }
}
`);
put("test/Fork.t.sol", `// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;
import {Counter} from "../src/Counter.sol";
interface Vm {
    function envAddress(string calldata) external view returns (address);
    function envUint(string calldata) external view returns (uint256);
}
contract ForkTest {
    Vm constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    function testReadsTheFork() external {
        Counter counter = Counter(vm.envAddress("COUNTER"));
        uint256 before = vm.envUint("EXPECTED");
        require(counter.number() == before, "another number");
        require(counter.add(5) == before + 5, "it does not add");
    }
}
`);

const run = async (name, args, env = {}) => {
  const options = { cwd: project, env: { ...process.env, FOUNDRY_DISABLE_NIGHTLY_WARNING: "1", ...env }, timeout: 100_000, maxBuffer: 64 << 20 };
  try {
    return (await promisify(execFile)(tool(name), args, options)).stdout;
  } catch (error) {
    throw new Error(`${name} ${args.join(" ")}: ${error.stdout}\n${error.stderr}`);
  }
};
for (const name of ["forge", "cast", "anvil"]) chmodSync(tool(name), 0o755);

async function create() {
  const made = JSON.parse(await run("forge", ["create", "--json", "--broadcast", "--rpc-url", url, "--private-key", key, "src/Counter.sol:Counter", "--constructor-args", "40"]));
  assert.equal(BigInt(await rpc("eth_call", [{ to: made.deployedTo, data: "0x8381f58a" }, "latest"])), 40n);
  return made.deployedTo;
}

// Many contracts, on all shards, and calls that touch two of them.
async function script() {
  await run("forge", ["script", "script/Deploy.s.sol:Deploy", "--broadcast", "--slow", "--rpc-url", url, "--private-key", key]);
  const { receipts } = require(join(project, "broadcast/Deploy.s.sol/31337/run-latest.json"));
  assert.equal(receipts.length, 24);
  assert.ok(receipts.every((receipt) => receipt.status === "0x1"));
  const last = receipts[11].contractAddress;
  assert.equal(BigInt(await rpc("eth_call", [{ to: last, data: "0x8381f58a" }, "latest"])), 13n);
  const shards = new Set();
  for (const { contractAddress } of receipts.slice(0, 12)) shards.add((await rpc("atoll_getPlacement", [contractAddress])).shard);
  assert.ok(shards.size > 1);
}

async function fork(counter) {
  await run("forge", ["test", "--fork-url", url], { COUNTER: counter, EXPECTED: "40" });
  // At a block of the past: before the last addition.
  const block = BigInt(await rpc("eth_blockNumber"));
  await run("cast", ["send", "--rpc-url", url, "--private-key", key, counter, "add(uint256)", "2"]);
  await run("forge", ["test", "--fork-url", url], { COUNTER: counter, EXPECTED: "42" });
  await run("forge", ["test", "--fork-url", url, "--fork-block-number", String(block)], { COUNTER: counter, EXPECTED: "40" });
}

async function anvil(counter) {
  const child = spawn(tool("anvil"), ["--fork-url", url, "--port", "0", "--no-mining"].filter((arg) => arg !== "--no-mining"), { stdio: ["ignore", "pipe", "inherit"] });
  try {
    const at = await new Promise((resolve, reject) => {
      let text = "";
      child.stdout.on("data", (data) => {
        text += data;
        const found = text.match(/Listening on (\S+)/);
        if (found) resolve(`http://${found[1]}`);
      });
      child.on("exit", () => reject(new Error(`anvil ended: ${text}`)));
      setTimeout(() => reject(new Error(`anvil does not listen: ${text}`)), 60_000).unref();
    });
    assert.equal(BigInt(await rpc("eth_call", [{ to: counter, data: "0x8381f58a" }, "latest"], at)), 42n);
    await run("cast", ["send", "--rpc-url", at, "--private-key", key, counter, "add(uint256)", "1"]);
    assert.equal(BigInt(await rpc("eth_call", [{ to: counter, data: "0x8381f58a" }, "latest"], at)), 43n);
    assert.equal(BigInt(await rpc("eth_call", [{ to: counter, data: "0x8381f58a" }, "latest"])), 42n);
  } finally {
    child.kill();
  }
}

const counter = await create();
console.log("forge create: ok");
await script();
console.log("forge script: ok");
await fork(counter);
console.log("forge test --fork-url: ok");
await anvil(counter);
console.log("anvil --fork-url: ok");
