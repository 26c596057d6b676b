// What users of Ethereum's libraries do, against a running cluster: node check.mjs http://HOST:PORT
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { ethers } from "ethers";
import * as viem from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { foundry } from "viem/chains";

const url = process.argv[2];
const ws = url.replace("http", "ws");
const contracts = process.env.CONTRACTS ?? new URL("../../contracts/artifacts", import.meta.url).pathname;
const artefact = (name) => JSON.parse(readFileSync(`${contracts}/${name}.json`));
const keys = [
  "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
  "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
  "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
];
const rpc = async (method, params = []) => {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const answer = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body });
  return answer.json();
};
const shard = async (address) => (await rpc("atoll_getPlacement", [address])).result.shard;

async function withEthers() {
  const provider = new ethers.JsonRpcProvider(url, undefined, { pollingInterval: 100, cacheTimeout: -1 });
  const [alice, bob] = keys.map((key) => new ethers.Wallet(key, provider));
  const { abi, bytecode } = artefact("Token");
  const token = await new ethers.ContractFactory(abi, bytecode, alice).deploy("Token", "T", 10n ** 24n);
  await token.waitForDeployment();
  assert.equal(await token.balanceOf(alice), 10n ** 24n);

  const heard = new Promise((resolve) => token.on("Transfer", (from, to, value) => resolve([from, to, value])));
  const receipt = await (await token.transfer(bob, 5n)).wait();
  assert.equal(receipt.status, 1);
  assert.ok((await provider.getBlockNumber()) >= receipt.blockNumber);
  assert.equal(await token.balanceOf(bob), 5n);
  assert.deepEqual(await heard, [alice.address, bob.address, 5n]);
  await token.off("Transfer");
  assert.equal((await token.queryFilter("Transfer", receipt.blockNumber, receipt.blockNumber)).length >= 1, true);

  await assert.rejects(token.connect(bob).transfer.staticCall(alice, 6n), (error) => {
    return error.code === "CALL_EXCEPTION" && error.revert.name === "ERC20InsufficientBalance";
  });
  // One that fails in its block: the estimate is left out.
  const failing = await token.connect(bob).transfer(alice, 6n, { gasLimit: 100_000n });
  await assert.rejects(failing.wait(), { code: "CALL_EXCEPTION" });
  await assert.rejects(
    alice.sendTransaction({ to: bob, value: 1n, nonce: 0, gasLimit: 21_000n }),
    { code: "NONCE_EXPIRED" },
  );
  await assert.rejects(alice.sendTransaction({ to: bob, value: 10n ** 30n }), { code: "INSUFFICIENT_FUNDS" });

  const block = await provider.getBlock(receipt.blockNumber, true);
  assert.equal(block.hash, receipt.blockHash);
  assert.equal(block.getPrefetchedTransaction(receipt.hash).from, alice.address);
  const parent = await provider.getBlock(receipt.blockNumber - 1);
  assert.equal(block.parentHash, parent.hash);

  // The node's own accounts.
  const signer = await provider.getSigner(1);
  const sent = await signer.sendTransaction({ to: alice, value: 1n });
  assert.equal((await sent.wait()).status, 1);
  const signature = await signer.signMessage("hello");
  assert.equal(ethers.verifyMessage("hello", signature), bob.address);
  const typed = [{ name: "a", chainId: 31337 }, { Mail: [{ name: "text", type: "string" }] }, { text: "hi" }];
  assert.equal(ethers.verifyTypedData(...typed, await signer.signTypedData(...typed)), bob.address);
  provider.destroy();
}

/// Contracts on different shards: each link of the chain calls the next.
async function acrossShards() {
  const provider = new ethers.JsonRpcProvider(url, undefined, { pollingInterval: 100, cacheTimeout: -1 });
  const wallet = new ethers.Wallet(keys[2], provider);
  const { abi, bytecode } = artefact("Hop");
  const factory = new ethers.ContractFactory(abi, bytecode, wallet);
  let last = await factory.deploy(ethers.ZeroAddress);
  await last.waitForDeployment();
  let first;
  do {
    first = await factory.deploy(last);
    await first.waitForDeployment();
  } while ((await shard(await first.getAddress())) === (await shard(await last.getAddress())));
  const tx = await first.hop(7n, false);
  const receipt = await tx.wait();
  assert.equal(receipt.logs.length, 2);
  assert.deepEqual([await first.total(), await last.total()], [7n, 7n]);
  await assert.rejects(first.hop.staticCall(1n, true), (error) => error.revert.name === "LastHopFailed");
  const where = (await rpc("atoll_getTransaction", [tx.hash])).result;
  assert.ok(where.kind === "group" && where.shards.length >= 2, JSON.stringify(where));
  provider.destroy();
  return { first, abi };
}

async function withViem({ first, abi }) {
  const account = privateKeyToAccount(keys[2]);
  const chain = { ...foundry, rpcUrls: { default: { http: [url], webSocket: [ws] } } };
  const wallet = viem.createWalletClient({ account, chain, transport: viem.http(url) });
  const client = viem.createPublicClient({ chain, transport: viem.http(url), pollingInterval: 100 });
  const socket = viem.createPublicClient({ chain, transport: viem.webSocket(ws) });
  const address = await first.getAddress();

  const logs = [];
  const heads = [];
  const unwatch = [
    socket.watchContractEvent({ address, abi, eventName: "Hopped", onLogs: (news) => logs.push(...news) }),
    socket.watchBlocks({ onBlock: (block) => heads.push(block.number) }),
  ];
  await socket.getBlockNumber();
  await new Promise((resolve) => setTimeout(resolve, 200));
  const before = await client.readContract({ address, abi, functionName: "total" });
  const { request } = await client.simulateContract({ account, address, abi, functionName: "hop", args: [3n, false] });
  const hash = await wallet.writeContract(request);
  const receipt = await client.waitForTransactionReceipt({ hash });
  assert.equal(receipt.status, "success");
  assert.equal(await client.readContract({ address, abi, functionName: "total" }), before + 3n);
  const deadline = Date.now() + 10_000;
  while ((logs.length === 0 || heads.length === 0) && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.equal(logs[0].args.amount, 3n);
  assert.ok(heads.length > 0);
  unwatch.forEach((stop) => stop());

  const [a, b] = await client.multicall({
    allowFailure: false,
    multicallAddress: "0xcA11bde05977b3631167028862bE2a173976CA11",
    contracts: ["total", "lastCaller"].map((functionName) => ({ address, abi, functionName })),
  });
  assert.deepEqual([a, b], [before + 3n, account.address]);
  await assert.rejects(
    client.simulateContract({ account, address, abi, functionName: "hop", args: [1n, true] }),
    (error) => error.walk((e) => e.data?.errorName === "LastHopFailed") !== null,
  );
  assert.ok((await client.estimateFeesPerGas()).maxFeePerGas > 0n);
  const block = await client.getBlock({ blockNumber: receipt.blockNumber, includeTransactions: true });
  assert.ok(block.transactions.some((tx) => tx.hash === hash));
  (await socket.transport.getRpcClient()).close();
}

function withCast() {
  const cast = createRequire(import.meta.url).resolve("@foundry-rs/cast-linux-amd64/bin/cast");
  const env = { ...process.env, ETH_RPC_URL: url };
  const run = (...args) => execFileSync(cast, args, { encoding: "utf8", env }).trim();
  assert.equal(run("chain-id"), "31337");
  const receipt = JSON.parse(
    run("send", "--json", "--private-key", keys[0], "--value", "1ether", "0x00000000000000000000000000000000000a1011"),
  );
  assert.equal(receipt.status, "0x1");
  assert.equal(run("balance", "--ether", "0x00000000000000000000000000000000000a1011").split(".")[0] >= "1", true);
  const { bytecode } = artefact("Cell");
  const made = JSON.parse(run("send", "--json", "--private-key", keys[0], "--create", bytecode));
  const touched = JSON.parse(run("send", "--json", "--private-key", keys[0], made.contractAddress, "touch(uint256)", "9"));
  assert.equal(touched.status, "0x1");
  assert.ok(BigInt(run("call", made.contractAddress, "value()(uint256)").split(" ")[0]) > 0n);
  assert.ok(run("logs", "--json", "--from-block", touched.blockNumber, "--to-block", touched.blockNumber, "--address", made.contractAddress).includes(touched.transactionHash));
  assert.equal(run("rpc", "eth_getTransactionReceipt", touched.transactionHash).length > 0, true);
  assert.ok(run("block", "latest").includes("transactionsRoot"));
  assert.ok(run("estimate", made.contractAddress, "touch(uint256)", "1") > 21_000);
  // The deterministic deployment proxy: salt, then the code that creates.
  const salted = "0x" + "00".repeat(32) + bytecode.slice(2);
  const proxy = "0x4e59b44847b379578588920cA78FbF26c0B4956C";
  assert.equal(JSON.parse(run("send", "--json", "--private-key", keys[0], proxy, salted)).status, "0x1");
}

for (const [name, check] of [["ethers", withEthers], ["cast", async () => withCast()]]) {
  await check();
  console.log(`${name}: ok`);
}
const hops = await acrossShards();
console.log("contracts on two shards: ok");
await withViem(hops);
console.log("viem: ok");
