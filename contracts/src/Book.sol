// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @notice Lists that are only appended to, and balances that only move, for tests that look for lost,
/// repeated and half-done transactions. Put a book on each shard.
/// @dev Anyone can write to it.
contract Book {
    /// @param value What to append; zero reads the list instead.
    struct Step {
        Book book;
        uint256 list;
        uint256 value;
    }

    mapping(uint256 list => uint256[]) private lists; // slot 0
    mapping(uint256 account => uint256) public balances; // slot 1

    /// @param accounts Those below this number have `balance` each.
    constructor(uint256 accounts, uint256 balance) {
        for (uint256 account = 0; account < accounts; ++account) {
            balances[account] = balance;
        }
    }

    /// @notice All steps, on any books, or none.
    /// @return seen For each step what its list held then; nothing for one that appends.
    function run(Step[] calldata steps) external returns (uint256[][] memory seen) {
        seen = new uint256[][](steps.length);
        for (uint256 i = 0; i < steps.length; ++i) {
            Step calldata step = steps[i];
            if (step.value == 0) seen[i] = step.book.read(step.list);
            else step.book.append(step.list, step.value);
        }
    }

    function append(uint256 list, uint256 value) external {
        lists[list].push(value);
    }

    function read(uint256 list) external view returns (uint256[] memory) {
        return lists[list];
    }

    /// @notice Moves an amount from an account of this book to one of any book. Reverts if it is not there.
    function move(uint256 from, Book to, uint256 account, uint256 amount) external {
        balances[from] -= amount;
        to.put(account, amount);
    }

    function put(uint256 account, uint256 amount) external {
        balances[account] += amount;
    }

    /// @return held What the accounts below `accounts` of each book hold, book by book.
    function totals(Book[] calldata books, uint256 accounts) external view returns (uint256[] memory held) {
        held = new uint256[](books.length * accounts);
        for (uint256 i = 0; i < held.length; ++i) {
            held[i] = books[i / accounts].balances(i % accounts);
        }
    }
}
