// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

// Contracts whose read and write sets cannot be known beforehand.

/// @notice What Chameleon and Drifter call: a counter of its own for each contract.
contract Cell {
    event Touched(address indexed caller, uint256 x, uint256 value);

    uint256 public value; // slot 0

    function touch(uint256 x) external returns (uint256) {
        value += x;
        emit Touched(msg.sender, x, value);
        return value;
    }
}

/// @notice Which Cell `poke` touches depends on a stored value that anyone may change between prediction
/// and execution: a prediction can go wrong.
contract Chameleon {
    event Selected(uint256 selector);
    event Poked(address indexed target, uint256 x);
    error NoTargets();

    uint256 public selector; // slot 0

    function set(uint256 selector_) external {
        selector = selector_;
        emit Selected(selector_);
    }

    /// @notice Touches `targets[selector % targets.length]`, and none of the others.
    function poke(Cell[] calldata targets, uint256 x) external returns (uint256) {
        if (targets.length == 0) revert NoTargets();
        Cell target = targets[selector % targets.length];
        emit Poked(address(target), x);
        return target.touch(x);
    }
}

/// @notice What it touches depends on the block it runs in: a prediction made in any other block is wrong
/// (`drift` always, `driftTo` with probability 1 - 1/n for n targets).
contract Drifter {
    event Drifted(bytes32 indexed key, uint256 visits);
    event DriftedTo(address indexed target, uint256 x);
    error NoTargets();

    mapping(bytes32 key => uint256) public visits; // slot 0

    /// @notice Counts up in a slot that belongs to this block alone.
    function drift() external returns (bytes32 key) {
        key = blockKey();
        emit Drifted(key, ++visits[key]);
    }

    /// @notice Touches one of the targets, chosen by this block: contention on contracts that others use.
    function driftTo(Cell[] calldata targets, uint256 x) external returns (uint256) {
        if (targets.length == 0) revert NoTargets();
        Cell target = targets[uint256(blockKey()) % targets.length];
        emit DriftedTo(address(target), x);
        return target.touch(x);
    }

    function blockKey() public view returns (bytes32) {
        return keccak256(abi.encode(block.number, block.timestamp, block.prevrandao));
    }
}
