// A page that is opened as a file may not start a worker. The search's worker then runs in a hidden frame of the page instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.title = "Search"
      document.body.appendChild(frame)
      this.inner = frame.contentWindow
      // Written, so that no browser replaces the document afterwards.
      this.inner.document.open()
      this.inner.document.write("<!doctype html><html lang=en><title>Search</title><body>")
      this.inner.document.close()
      // The worker answers by postMessage(data), which in a frame would speak to itself.
      this.inner.postMessage = data => {
        const event = new MessageEvent("message", {data})
        this.dispatchEvent(event)
        if (this.onmessage) this.onmessage(event)
      }
      this.inner.importScripts = (...addresses) => addresses.reduce((before, one) => before.then(() => this.load(one)), Promise.resolve())
      this.ready = this.load(address)
      this.frame = frame
    }

    load(address) {
      return new Promise((loaded, failed) => {
        const script = this.inner.document.createElement("script")
        script.src = new URL(address, location.href).href
        script.onload = loaded
        script.onerror = failed
        this.inner.document.body.appendChild(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", {data})))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
