"""What holds for all tests."""

import signal

# A shell that starts the tests in the background hands on an ignored SIGINT, to them and to the
# processes that they start. The tests of interrupts need the usual one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
