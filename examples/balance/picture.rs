//! Draws the chart: a row per placement, with its load on the left and the share of moved keys on the right.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::measure::{FLEETS, Figures, KEYS, SIZES};

/// Colours that colour-blind readers can distinguish (M. Okabe and K. Ito, 2008), one for each number of
/// nodes; each has its own marker too.
const COLOURS: [RGBColor; SIZES.len()] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
];
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(120, 120, 120);
const LINE: RGBColor = RGBColor(205, 205, 205);
const BAND: RGBColor = RGBColor(245, 245, 245);

// All in pixels of the picture at its original size.
const WIDTH: f64 = 1000.0;
const TOP: f64 = 78.0;
const ROW: f64 = 25.0;
const HEADING: f64 = 26.0;
const BOTTOM: f64 = 78.0;
/// Distance between the markers of two numbers of nodes in one row.
const STEP: f64 = 6.5;
const LOADS: (f64, f64) = (240.0, 600.0);
const MOVES: (f64, f64) = (650.0, 980.0);

/// Steps per pixel of the vector picture, in each direction.
const VECTOR_SCALE: u32 = 10;
/// Scale of the bitmap, and points drawn per pixel of it, in each direction.
const BITMAP_SCALE: u32 = 2;
const SMOOTH: u32 = 3;

/// Draws into a file; its extension selects the format.
pub fn draw(figures: &[Figures], file: &Path) -> Result<(), Box<dyn Error>> {
    for (style, font) in [
        (FontStyle::Normal, dejavu::sans::regular()),
        (FontStyle::Bold, dejavu::sans::bold()),
    ] {
        register_font("sans-serif", style, font).map_err(|_| "the font cannot be read")?;
    }
    let height = height(figures);
    if file.extension().is_some_and(|ending| ending == "svg") {
        let mut text = String::new();
        let (width, height) = (WIDTH as u32, height as u32);
        // plotters writes whole numbers only, so it draws at a larger scale than is shown.
        let size = (width * VECTOR_SCALE, height * VECTOR_SCALE);
        {
            let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
            let scale = f64::from(VECTOR_SCALE);
            Sheet { area: &area, scale }.draw(figures)?;
            area.present()?;
        }
        let drawn = format!("width=\"{}\" height=\"{}\"", size.0, size.1);
        let shown = format!("width=\"{width}\" height=\"{height}\"");
        // Viewers may have another font, but nearly all have a similar one.
        let text = text
            .replacen(&drawn, &shown, 1)
            .replace("\"sans-serif\"", "\"DejaVu Sans, Verdana, sans-serif\"");
        fs::write(file, text)?;
        return Ok(());
    }
    // plotters draws most lines without antialiasing, so it draws several points per pixel, which are
    // averaged.
    let (width, height) = (WIDTH as u32 * BITMAP_SCALE, height as u32 * BITMAP_SCALE);
    let (wide, high) = (width * SMOOTH, height * SMOOTH);
    let mut points = vec![255; (wide * high * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut points, (wide, high)).into_drawing_area();
        let scale = f64::from(BITMAP_SCALE * SMOOTH);
        Sheet { area: &area, scale }.draw(figures)?;
        area.present()?;
    }
    let area = BitMapBackend::new(file, (width, height)).into_drawing_area();
    for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
        let mean = |channel: u32| {
            let point = |i: u32| {
                let (x, y) = (x * SMOOTH + i % SMOOTH, y * SMOOTH + i / SMOOTH);
                u32::from(points[((y * wide + x) * 3 + channel) as usize])
            };
            (0..SMOOTH * SMOOTH).map(point).sum::<u32>() / (SMOOTH * SMOOTH)
        };
        let colour = RGBColor(mean(0) as u8, mean(1) as u8, mean(2) as u8);
        area.draw_pixel((x as i32, y as i32), &colour)?;
    }
    area.present()?;
    Ok(())
}

fn height(figures: &[Figures]) -> f64 {
    TOP + 2.0 * HEADING + figures.len() as f64 * ROW + BOTTOM
}

/// A drawing area, and the number of its points per pixel of the picture.
struct Sheet<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, plotters::coord::Shift>,
    scale: f64,
}

type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

impl<B: DrawingBackend> Sheet<'_, B> {
    fn draw(&self, figures: &[Figures]) -> Drawn<B> {
        self.area.fill(&WHITE)?;
        let loads = Axis::of_loads(figures);
        let moves = Axis::of_moves();
        let bottom = height(figures) - BOTTOM;
        self.rows(figures, &loads, &moves)?;
        self.axis(&loads, bottom)?;
        self.axis(&moves, bottom)?;
        self.ideals(&moves, bottom)?;
        self.marks(figures, &loads, &moves)?;
        self.legend()?;
        let note = format!(
            "{} million keys user:0, user:1, ...; nodes of weight one; the median of {FLEETS} fleets with other names of nodes.",
            KEYS / 1_000_000
        );
        self.text(
            &note,
            (LOADS.0 - 225.0, bottom + 54.0),
            11.0,
            &FAINT,
            HPos::Left,
        )?;
        let note = "Every placement has its default options; hash-mod/1 hashes by CRC32. The even maps of slot-map/1 and codis/1 move more than rebalanced ones.";
        self.text(
            note,
            (LOADS.0 - 225.0, bottom + 69.0),
            11.0,
            &FAINT,
            HPos::Left,
        )
    }

    fn rows(&self, figures: &[Figures], loads: &Axis, moves: &Axis) -> Drawn<B> {
        for (i, (row, y)) in figures.iter().zip(ys(figures)).enumerate() {
            let first = i == 0 || figures[i - 1].is_peer != row.is_peer;
            if first {
                let heading = match row.is_peer {
                    false => "this crate",
                    true => "other clients and proxies",
                };
                self.bold(
                    heading,
                    (15.0, y - ROW / 2.0 - HEADING / 2.0 + 2.0),
                    HPos::Left,
                )?;
            }
            if i % 2 == 0 {
                for axis in [loads, moves] {
                    self.band((axis.from, y - ROW / 2.0), (axis.to, y + ROW / 2.0), &BAND)?;
                }
            }
            self.text(
                &row.name,
                (LOADS.0 - 12.0, y + 1.5),
                12.5,
                &INK,
                HPos::Right,
            )?;
        }
        Ok(())
    }

    fn axis(&self, axis: &Axis, bottom: f64) -> Drawn<B> {
        for (value, label) in &axis.ticks {
            let x = axis.x(*value);
            self.line((x, TOP), (x, bottom), &LINE, 0.7)?;
            self.text(label, (x, bottom + 12.0), 11.5, &INK, HPos::Center)?;
        }
        let middle = (axis.from + axis.to) / 2.0;
        self.text(
            axis.caption,
            (middle, bottom + 31.0),
            12.5,
            &INK,
            HPos::Center,
        )?;
        self.bold(axis.title, (axis.from, 52.0), HPos::Left)
    }

    /// Draws the share that would move if only the fair share of the new node moved.
    fn ideals(&self, moves: &Axis, bottom: f64) -> Drawn<B> {
        for (size, colour) in SIZES.into_iter().zip(COLOURS) {
            let x = moves.x(1.0 / (size as f64 + 1.0));
            let mut y = TOP;
            while y < bottom {
                self.line((x, y), (x, (y + 5.0).min(bottom)), &colour, 1.2)?;
                y += 9.0;
            }
            self.text(
                &format!("1/{}", size + 1),
                (x, TOP - 8.0),
                11.0,
                &colour,
                HPos::Center,
            )?;
        }
        Ok(())
    }

    fn marks(&self, figures: &[Figures], loads: &Axis, moves: &Axis) -> Drawn<B> {
        let one = loads.x(1.0);
        self.line((one, TOP), (one, height(figures) - BOTTOM), &FAINT, 1.2)?;
        for (row, middle) in figures.iter().zip(ys(figures)) {
            for (i, colour) in COLOURS.into_iter().enumerate() {
                let y = middle + (i as f64 - 1.0) * STEP;
                let load = &row.loads[i];
                let (least, most) = (loads.x(load.least), loads.x(load.most));
                let (from, to) = (loads.x(load.extremes.0), loads.x(load.extremes.1));
                self.line((from, y), (to, y), &colour, 0.8)?;
                self.line((least, y), (most, y), &colour, 2.4)?;
                self.shape(i, (least, y))?;
                self.shape(i, (most, y))?;
                self.shape(i, (moves.x(row.moved[i]), y))?;
            }
        }
        Ok(())
    }

    fn legend(&self) -> Drawn<B> {
        let mut x = LOADS.0;
        for (i, size) in SIZES.into_iter().enumerate() {
            self.shape(i, (x + 4.0, 22.0))?;
            self.text(
                &format!("{size} nodes"),
                (x + 13.0, 22.0),
                12.5,
                &INK,
                HPos::Left,
            )?;
            x += 92.0;
        }
        let y = 22.0;
        x += 14.0;
        self.line((x, y), (x + 40.0, y), &FAINT, 0.8)?;
        self.line((x + 8.0, y), (x + 32.0, y), &FAINT, 2.4)?;
        let text = "idlest to busiest node; thin: the worst of the fleets";
        self.text(text, (x + 48.0, y), 12.5, &INK, HPos::Left)
    }

    fn shape(&self, which: usize, centre: (f64, f64)) -> Drawn<B> {
        let colour = COLOURS[which].filled();
        let at = |dx: f64, dy: f64| self.at((centre.0 + dx, centre.1 + dy));
        match which {
            0 => self.area.draw(&Circle::new(
                at(0.0, 0.0),
                (3.2 * self.scale) as i32,
                colour,
            )),
            1 => {
                let corners = vec![at(-3.0, -3.0), at(3.0, -3.0), at(3.0, 3.0), at(-3.0, 3.0)];
                self.area.draw(&Polygon::new(corners, colour))
            }
            _ => {
                let corners = vec![at(0.0, -4.2), at(4.2, 0.0), at(0.0, 4.2), at(-4.2, 0.0)];
                self.area.draw(&Polygon::new(corners, colour))
            }
        }
    }

    fn band(&self, from: (f64, f64), to: (f64, f64), colour: &RGBColor) -> Drawn<B> {
        self.area.draw(&Rectangle::new(
            [self.at(from), self.at(to)],
            colour.filled(),
        ))
    }

    fn line(&self, from: (f64, f64), to: (f64, f64), colour: &RGBColor, width: f64) -> Drawn<B> {
        let width = (width * self.scale).round().max(1.0) as u32;
        let line = PathElement::new(vec![self.at(from), self.at(to)], colour.stroke_width(width));
        self.area.draw(&line)
    }

    fn text(&self, text: &str, at: (f64, f64), size: f64, colour: &RGBColor, to: HPos) -> Drawn<B> {
        let font = FontDesc::new(FontFamily::SansSerif, size * self.scale, FontStyle::Normal);
        self.write(text, at, font, colour, to)
    }

    fn bold(&self, text: &str, at: (f64, f64), to: HPos) -> Drawn<B> {
        let font = FontDesc::new(FontFamily::SansSerif, 13.0 * self.scale, FontStyle::Bold);
        self.write(text, at, font, &INK, to)
    }

    fn write(
        &self,
        text: &str,
        at: (f64, f64),
        font: FontDesc<'_>,
        colour: &RGBColor,
        to: HPos,
    ) -> Drawn<B> {
        let style = TextStyle::from(font)
            .color(colour)
            .pos(Pos::new(to, VPos::Center));
        self.area.draw_text(text, &style, self.at(at))
    }

    fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        (
            (x * self.scale).round() as i32,
            (y * self.scale).round() as i32,
        )
    }
}

/// Vertical centre of each row.
fn ys(figures: &[Figures]) -> impl Iterator<Item = f64> + '_ {
    figures.iter().enumerate().map(|(i, row)| {
        let headings = if row.is_peer { 2.0 } else { 1.0 };
        TOP + headings * HEADING + (i as f64 + 0.5) * ROW
    })
}

/// Maps values to positions between left and right.
struct Axis {
    title: &'static str,
    caption: &'static str,
    from: f64,
    to: f64,
    /// The values at the two ends.
    ends: (f64, f64),
    scale: fn(f64) -> f64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    fn of_loads(figures: &[Figures]) -> Self {
        let extremes = || {
            figures
                .iter()
                .flat_map(|row| row.loads)
                .map(|load| load.extremes)
        };
        let least = extremes().map(|(least, _)| least).fold(1.0, f64::min);
        let most = extremes().map(|(_, most)| most).fold(1.0, f64::max);
        let quarters = ((least * 4.0).floor() as u32, (most * 4.0).ceil() as u32);
        let ticks = (quarters.0..=quarters.1).map(|quarter| f64::from(quarter) / 4.0);
        Self {
            title: "How even is the load?",
            caption: "keys of the node / keys of the average node",
            from: LOADS.0,
            to: LOADS.1,
            ends: (f64::from(quarters.0) / 4.0, f64::from(quarters.1) / 4.0),
            scale: |value| value,
            ticks: ticks.map(|tick| (tick, tick.to_string())).collect(),
        }
    }

    fn of_moves() -> Self {
        let ticks = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
        Self {
            title: "What moves when a node joins?",
            caption: "share of the keys, in per cent; dashed: the new node's fair share",
            from: MOVES.0,
            to: MOVES.1,
            ends: (0.005, 1.0),
            scale: f64::ln,
            ticks: ticks.map(|tick| (tick / 100.0, tick.to_string())).into(),
        }
    }

    fn x(&self, value: f64) -> f64 {
        let [value, first, last] = [value, self.ends.0, self.ends.1].map(self.scale);
        self.from + (value - first) / (last - first) * (self.to - self.from)
    }
}
