// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @notice A small contract to create, call and destroy. No constructor arguments: one init code hash.
contract Child {
    event Bumped(uint256 value);

    address public parent; // slot 0
    uint256 public value; // slot 1

    constructor() payable {
        parent = msg.sender;
    }

    function bump(uint256 by) external returns (uint256) {
        value += by;
        emit Bumped(value);
        return value;
    }

    /// @notice Anyone may call it. Since EIP-6780 it removes code and storage only in the transaction that
    /// created the contract; later it only sends the balance away.
    /// @param heir Gets the balance. The contract itself as heir burns it, if it is removed.
    function destroy(address payable heir) external {
        selfdestruct(heir);
    }
}

/// @notice Makes Children and calls them. Value sent along becomes the Child's balance.
contract Factory {
    event Created(address indexed child, bytes32 salt, bool isCreate2);
    event Destroyed(address indexed child, uint256 value);

    uint256 public created; // slot 0; counts all three ways

    /// @notice CREATE: the address depends on this contract's nonce.
    function create(uint256 by) external payable returns (Child child) {
        child = new Child{value: msg.value}();
        _created(child, 0, false);
        child.bump(by);
    }

    /// @notice CREATE2: fails if the Child of this salt exists.
    function create2(bytes32 salt, uint256 by) external payable returns (Child child) {
        child = _create2(salt);
        child.bump(by);
    }

    /// @notice CREATE2, call and SELFDESTRUCT in one transaction. The same salt works again in a later one,
    /// and `value` is then `by` once more: nothing of the earlier incarnation is left.
    function flash(bytes32 salt, uint256 by, address payable heir) external payable returns (uint256 value) {
        Child child = _create2(salt);
        value = child.bump(by);
        child.destroy(heir);
        emit Destroyed(address(child), value);
    }

    /// @notice The address that `create2` and `flash` use for this salt.
    function childOf(bytes32 salt) external view returns (address) {
        bytes32 initCodeHash = keccak256(type(Child).creationCode);
        bytes32 hash = keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, initCodeHash));
        return address(uint160(uint256(hash)));
    }

    function _create2(bytes32 salt) private returns (Child child) {
        child = new Child{value: msg.value, salt: salt}();
        _created(child, salt, true);
    }

    function _created(Child child, bytes32 salt, bool isCreate2) private {
        ++created;
        emit Created(address(child), salt, isCreate2);
    }
}
