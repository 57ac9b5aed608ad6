//! The first serial port (COM1, 115200 8N1), by way of the `uart_16550` crate.

use core::fmt;

use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};

/// I/O port of COM1 on every PC.
const COM1: u16 = 0x3f8;
/// How often to look for room in the transmitter before a byte is given up: a port that stopped
/// accepting bytes must not hang the kernel. At 115200 baud a full FIFO drains in 1.4 ms.
const PATIENCE: u32 = 1_000_000;

/// An initialized serial port.
pub struct SerialPort(Uart16550<PioBackend>);

impl SerialPort {
    /// Initializes COM1; `None` if there is no such device.
    pub fn open() -> Option<Self> {
        let mut port = Self::device()?;
        let config = Config { baud_rate: BaudRate::Baud115200, ..Config::default() };
        port.init(config).ok()?;
        Some(SerialPort(port))
    }

    /// A second handle for a CPU that panics and cannot have the first one. The state of the device is
    /// whatever the interrupted holder left; initializing it again is safe in every state.
    pub fn reopen() -> Option<Self> {
        Self::open()
    }

    /// A second handle that leaves the device as it is, for the debugger.
    #[cfg(feature = "kdb")]
    pub fn attach() -> Option<Self> {
        Self::device().map(SerialPort)
    }

    /// The device interrupts when bytes arrive.
    #[cfg(feature = "kdb")]
    pub fn interrupt_on_input(&mut self) {
        use x86_64::instructions::port::Port;
        const INTERRUPT_ENABLE: u16 = 1;
        const RECEIVED: u8 = 1;
        const MODEM_CONTROL: u16 = 4;
        // Terminal and receiver ready; auxiliary output 2 lets the interrupt through to the line.
        const READY_AND_INTERRUPT: u8 = 0b1011;
        // SAFETY: two registers of the port that this handle stands for.
        unsafe {
            Port::new(COM1 + MODEM_CONTROL).write(READY_AND_INTERRUPT);
            Port::new(COM1 + INTERRUPT_ENABLE).write(RECEIVED);
        }
    }

    fn device() -> Option<Uart16550<PioBackend>> {
        // SAFETY: COM1's eight registers belong to the serial port or to nothing; the handle is kept
        // behind the console lock, or used by the only CPU still running (`reopen`).
        unsafe { Uart16550::new_port(COM1) }.ok()
    }

    /// A byte that arrived, if any.
    pub fn receive(&mut self) -> Option<u8> {
        let mut byte = [0];
        (self.0.receive_bytes(&mut byte) == 1).then_some(byte[0])
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, mut bytes: &[u8]) {
        let mut patience = PATIENCE;
        while !bytes.is_empty() {
            let sent = self.0.send_bytes(bytes);
            if sent > 0 {
                bytes = &bytes[sent..];
                patience = PATIENCE;
            } else {
                patience -= 1;
                if patience == 0 {
                    return;
                }
                core::hint::spin_loop();
            }
        }
    }
}

impl fmt::Write for SerialPort {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (i, line) in text.split('\n').enumerate() {
            if i > 0 {
                self.send(b"\r\n");
            }
            self.send(line.as_bytes());
        }
        Ok(())
    }
}
