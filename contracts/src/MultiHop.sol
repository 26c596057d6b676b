// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @notice One link of a chain of contracts. Put the links on different shards and a single call writes
/// to all of them, or, if the last link reverts, to none.
contract Hop {
    event Hopped(address indexed caller, uint256 amount, uint256 total);
    error LastHopFailed(uint256 amount);

    uint256 public total; // slot 0
    address public lastCaller; // slot 1
    Hop public next; // slot 2; storage, not immutable: every link has the same code

    /// @param next_ The link to call after this one; zero makes this the last.
    constructor(Hop next_) {
        next = next_;
    }

    /// @param failAtEnd The last link reverts, after every link has written and logged.
    /// @return sum The new `total` of this link and all after it, so the value shows what each shard holds.
    function hop(uint256 amount, bool failAtEnd) external returns (uint256 sum) {
        sum = total += amount;
        lastCaller = msg.sender;
        emit Hopped(msg.sender, amount, sum);

        Hop next_ = next;
        if (address(next_) != address(0)) {
            sum += next_.hop(amount, failAtEnd);
        } else if (failAtEnd) {
            revert LastHopFailed(amount);
        }
    }
}
