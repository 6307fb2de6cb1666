# SPDX-License-Identifier: Apache-2.0
"""What the watcher decides: bytes of the API server to normalised objects, and who is sent which of them. No IO."""
