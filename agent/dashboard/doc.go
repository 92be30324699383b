// Package dashboard serves the web page on which users see and control their agent.
//
// Loopback addresses are open to everything on the machine: to other users, and to every web page that the user visits. The
// page therefore admits only a browser with a link that the agent made for its user:
//
//   - A link's URL has a token in its fragment, which browsers never send. The token is valid once, for a minute.
//   - The page exchanges it for a session. Each request needs the session's two secrets: a cookie that no script can read,
//     and a key in a header that no other page can read or send. Cookies ignore ports: a browser sends them to a server of
//     another user on this address too. And a script that got into the page could read a key.
//   - A request must name the listener's address as its Host, so that DNS rebinding fails. It must not come from another
//     origin, not even from another port.
//   - Every change is a POST of JSON.
//   - On Linux, the server closes connections of other users at once.
//
// The page is static, loads nothing from elsewhere, and inserts content into the document only as text.
package dashboard
